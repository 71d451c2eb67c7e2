"""Holds many idle connections: `python -m tests.net.hold PORT COUNT [BYTES]`, says `held N`, ends with its stdin.

With BYTES each connection sends the beginning of a request head, and a byte more every fifth of a second.
"""

from __future__ import annotations

import resource
import socket
import sys
import time


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    drip = len(sys.argv) > 3
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        if drip:
            connection.sendall(b"GET http://api.example.com/ HT")
        held.append(connection)
    print(f"held {len(held)}", flush=True)  # noqa: T201  its one result, on stdout
    while True:
        time.sleep(0.2)
        for connection in held if drip else ():
            try:
                connection.send(b"x")
            except OSError:
                continue


if __name__ == "__main__":
    main()
