"""Holds many idle connections: `python -m tests.net.hold PORT COUNT [SECONDS [again]]`, says `held N`.

With SECONDS each connection sends the beginning of a request head, and a byte more each time so many have passed. With
`again` one that was closed is opened anew. It goes on until it is killed.
"""

from __future__ import annotations

import resource
import socket
import sys
import time


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else None
    again = "again" in sys.argv
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        if seconds is not None:
            connection.sendall(_BEGUN)
        connection.setblocking(False)
        held.append(connection)
    print(f"held {len(held)}", flush=True)  # noqa: T201  its one result, on stdout
    while True:
        time.sleep(3600 if seconds is None else seconds)
        held = [_dripped(connection, port, again=again) for connection in held]


_BEGUN = b"GET http://api.example.com/ HT"


def _dripped(connection: socket.socket, port: int, *, again: bool) -> socket.socket:
    """One byte more, if that goes; the connection from then on."""
    try:
        connection.send(b"x")
    except BlockingIOError:  # still on its way
        return connection
    except OSError:
        if not again:
            return connection
        connection.close()
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port))
    return connection


if __name__ == "__main__":
    main()
