"""One request in opened TLS, whichever version of HTTP brought it."""
