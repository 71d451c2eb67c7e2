"""What a caller who fills all places, and asks for nothing, costs another one: how late its calls are answered.

python -m bench.crowded             prints one JSON object; part of `make bench`

200 places, and one caller with 1,000 connections: each has sent a byte of a head, and what is closed is opened again at
once, at the end of the queue. Beside it a client connects anew for each call. The flood is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.contenders import ContenderError, Ours, OursPython
from bench.upstream_process import UpstreamProcess
from bench.wire import HOST

_PLACES: Final = 200
_CONNECTIONS: Final = 1_000
_CALLS: Final = 5
_PATIENCE: Final = 60.0
_SETTLE: Final = 2.0
_SETTINGS: Final = f"proxy: {{max_connections: {_PLACES}}}\n"


class _Native(Ours):
    settings = _SETTINGS


class _Python(OursPython):
    settings = _SETTINGS


def _flood(port: int) -> None:
    """Until it is ended."""
    watched = selectors.DefaultSelector()

    def connect() -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        watched.register(sock, selectors.EVENT_WRITE)

    def again(sock: socket.socket) -> None:
        watched.unregister(sock)
        sock.close()
        connect()

    for _ in range(_CONNECTIONS):
        connect()
    while True:
        for key, event in watched.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if event & selectors.EVENT_WRITE:
                    sock.send(b"G")
                    watched.modify(sock, selectors.EVENT_READ)
                else:
                    sock.recv(65_536)
                    again(sock)
            except OSError:
                again(sock)


def _call(contender: Ours) -> float:
    """Seconds from the connect to the first byte of the answer. Raises ContenderError."""
    target = f"{HOST}:{contender.ports[0]}"
    head = f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode()
    began = time.monotonic()
    with socket.create_connection(contender.address, timeout=_PATIENCE) as client:
        client.sendall(head)
        if client.recv(12) != b"HTTP/1.1 200":
            raise ContenderError(f"{contender.name}: the allowed call was refused")
    return time.monotonic() - began


def measure() -> dict[str, float]:
    """The longest of the calls by either gate, in milliseconds."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory, UpstreamProcess(Path(directory)) as ports:
        for name, kind in (("native", _Native), ("python", _Python)):
            contender = kind(Path(directory) / name, ports, 10)
            contender.start()
            try:
                _call(contender)
                command = [sys.executable, "-m", "bench.crowded", "--flood", str(contender.port)]
                with subprocess.Popen(command) as flood:
                    try:
                        time.sleep(_SETTLE)
                        found[f"crowded_{name}_ms"] = round(1e3 * max(_call(contender) for _ in range(_CALLS)), 1)
                    finally:
                        flood.kill()
            finally:
                contender.stop()
    return {**found, "load": round(os.getloadavg()[0], 1)}


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.crowded", description=__doc__)
    parser.add_argument("--flood", type=int, default=0, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.flood:
        _flood(chosen.flood)
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
