"""Clients of HTTP/1.1 in opened TLS."""
