"""Messages of HTTP/1.1 on their way through the proxy, for plain requests and in opened TLS."""
