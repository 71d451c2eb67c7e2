"""Real workers of `serve --workers N`: who they are, what they hold, and a tunnel through them."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cli.program import Origin, Serving, Workspace

WORKERS = 3


def serve(workspace: Workspace, *arguments: str) -> Serving:
    return workspace.serve("--workers", str(WORKERS), *arguments)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(serving: Serving) -> list[int]:
    """The workers' process ids, in the order in which they were started: whatever listens on the proxy's port."""
    return [pid for pid in children(serving.process.pid) if listens(pid, serving.port)]


def listens(pid: int, port: int) -> bool:
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in tcp_of(pid))


def tunnels_of(pid: int, origin: Origin) -> int:
    """How many connections to the origin the process holds: one per tunnel, whatever else it has open."""
    return sum(row[3] == "01" and row[2].endswith(f":{origin.port:04X}") for row in tcp_of(pid))


def tcp_of(pid: int) -> list[list[str]]:
    """The rows of /proc/net/tcp (1: local address, 2: remote address, 3: state) of the process's own sockets."""
    targets = set()
    with suppress(OSError):  # The process, or one of its descriptors, may be gone while they are listed.
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                targets.add(str(entry.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row for row in rows if f"socket:[{row[9]}]" in targets]


def value(serving: Serving, series: str) -> float:
    """The value of one series of /metrics; 0.0 when it is not there."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", serving.page("/metrics").body, re.MULTILINE)
    return float(found[1]) if found else 0.0


def statuses(serving: Serving, url: str, count: int, headers: dict[str, str] | None = None) -> Counter[int]:
    """Asks `count` times from 8 threads."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: serving.get(url, headers=headers).status, range(count))
        return Counter(answers)


def restarted(serving: Serving, dead: int) -> bool:
    present = workers(serving)
    return dead not in present and len(present) == WORKERS and serving.page("/readyz").status == 200


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def tunnel(serving: Serving, origin: Origin) -> Iterator[socket.socket]:
    """An open raw tunnel to the origin."""
    place = f"127.0.0.1:{origin.port}"
    with socket.create_connection(("127.0.0.1", serving.port), timeout=90) as client:
        client.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        yield client


def asks_through(client: socket.socket) -> bool:
    """Whether the tunnel still works, end to end."""
    try:
        client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\n\r\n")
        return b"reached" in _until_reached(client)
    except OSError:
        return False


def _until_reached(client: socket.socket) -> bytes:
    data = b""
    while b"reached" not in data and (more := client.recv(4096)):
        data += more
    return data
