"""What both versions of HTTP are written on: TLS over streams, bodies, HTTP/2 ends and their bounds."""
