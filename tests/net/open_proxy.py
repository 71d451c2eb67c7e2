"""A proxy without a single guard: what the attacks must be able to walk through, or they could not fail.

Takes the options of `cloned-proxy serve` that the tests use. Independent of the product's code on purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import secrets
import socket
import threading
from pathlib import Path


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _relay(client: socket.socket, upstream: socket.socket) -> None:
    back = threading.Thread(target=_pump, args=(upstream, client), daemon=True)
    back.start()
    _pump(client, upstream)
    back.join()


def _split(target: bytes, port: int) -> tuple[str, int]:
    """The last colon wins, userinfo is skipped, any spelling goes to the resolver."""
    host, colon, digits = target.rpartition(b"@")[2].rpartition(b":")
    if not colon or b"]" in digits:
        host, digits = target.rpartition(b"@")[2], str(port).encode()
    return host.decode().strip("[]"), int(digits.decode(), 0) % 65_536


def _serve(client: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError), client:
        data = b""
        while not re.search(rb"\r?\n\r?\n", data):
            more = client.recv(65_536)
            if not more:
                return
            data += more
        method, target, _ = [*data.split(None, 2), b"", b""][:3]
        if method.upper() == b"CONNECT":
            with socket.create_connection(_split(target, 443), 5) as upstream:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                upstream.sendall(data.partition(b"\r\n\r\n")[2])
                _relay(client, upstream)
            return
        match = re.search(rb"://([^/\s]+)", target) or re.search(rb"(?i)host:\s*([^\s]+)", data)
        if match:
            with socket.create_connection(_split(match[1], 80), 5) as upstream:
                upstream.sendall(data)
                _relay(client, upstream)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_server((host, int(port)), backlog=512)


def _answer_ready(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\ncloned_proxy_build_info 1\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--workspace", "--listen", "--metrics", "--control"):
        parser.add_argument(option)
    options, _ = parser.parse_known_args()
    key = Path(options.workspace) / "identity.key"
    if not key.exists():
        key.write_bytes(secrets.token_bytes(32))
    threading.Thread(target=_answer_ready, args=(_listen(options.metrics),), daemon=True).start()
    listener = _listen(options.listen)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
