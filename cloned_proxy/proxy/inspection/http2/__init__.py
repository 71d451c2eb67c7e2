"""HTTP/2 in opened TLS, on the `h2` library and without mitmproxy.

mitmproxy's HTTP/2 layer cannot hold the lines that are drawn here. It gives a sender its window back as soon as bytes
have come, and keeps what a slow reader does not take without bound; one malformed request ends the connection with all
of its streams; its hooks belong to a connection, which is what a cut ends; and its limits are those of the library.
`h2` is a state machine without I/O that buffers no bodies: what flows, and when, is ours.

A client that offers `h2` in its ClientHello gets it and comes here (`front`); everybody else stays where HTTP/1.1 is
read. What an upstream speaks is found out apart (`pool`): HTTP/2, with all streams of the tunnel on one connection, or
HTTP/1.1, a connection for each (`upstream_h2`, `upstream_h1`). A request is one task (`stream`): its own decision,
record, budget, deadline and end. Between the two sides of a body is a pipe of bounded size (`pipe`), whose window is
what the sender may have under way: a slow reader stops its own sender and nobody else.
"""
