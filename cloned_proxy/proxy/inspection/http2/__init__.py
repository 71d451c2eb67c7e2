"""HTTP/2 in opened TLS, on the `h2` library and without mitmproxy.

mitmproxy's HTTP/2 layer cannot hold the lines that are drawn here. It acknowledges what it receives as soon as it has
it, and keeps what a slow reader does not take in an unbounded list; it ends the connection with all its streams for one
malformed request; it tells the connection, not the stream, apart from its neighbours when something is cut; it opens
whatever version its upstream speaks for one client connection and cannot wait for a free stream. Its limits are those
of the library alone. `h2` is a state machine without I/O that buffers no bodies: what flows, and when, is ours.

A client that offers `h2` in its ClientHello gets it and comes here (`front`); everybody else stays where HTTP/1.1 is
read. What an upstream speaks is found out apart (`pool`): HTTP/2, with all streams of the tunnel on one connection, or
HTTP/1.1, a connection for each (`upstream_h2`, `upstream_h1`). A request is one task (`stream`): its own decision,
record, budget, deadline and end. Between the two sides of a body is a pipe of bounded size (`pipe`), whose window is
what the sender may have under way: a slow reader stops its own sender and nobody else.
"""
