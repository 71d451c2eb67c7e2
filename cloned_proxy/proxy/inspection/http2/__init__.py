"""Requests in opened TLS, and HTTP/2 there on the `h2` library.

`h2` is a state machine without I/O that buffers no bodies: what flows, and when, is ours. It is told to check less than
it would, because it ends a connection with all of its streams for one malformed request; `heads` is stricter.

A client that offers `h2` in its ClientHello gets it and comes to `front`; for everybody else `inspection.connection`
reads HTTP/1.1. A request is one task and the same for both (`stream`): its own decision, record, budget, deadline and
end; what its client sees is written by a subclass of each version (`answering`, `inspection.exchange`). What an
upstream speaks is found out apart (`pool`): HTTP/2, with all requests of the tunnel on one connection, or HTTP/1.1, a
connection for each at a time (`upstream_h2`, `upstream_h1`). Between the two sides of a body is a pipe of bounded size
(`pipe`): a slow reader stops its own sender and nobody else.
"""
