"""What it costs to filter a packument of 10 MB, beside the same bytes through opened TLS without a filter.

python -m bench.registry [ROUNDS]

Goals: at most 150 ms more, and at most 40 MB more at the peak. Both go through one proxy, in turns, from one server on
this machine, compressed as registries send it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gzip
import http.client
import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import trustme

from bench.measure import cpu_seconds

MILLISECONDS = 150.0
MEGABYTES = 40.0
_SIZE = 10_000_000
_PACKAGE = "large-package"
_PROGRAM = str(Path(sys.executable).with_name("cloned-proxy"))
_START_SECONDS = 60.0


def packument(port: int, size: int = _SIZE) -> bytes:
    """Like those of large packages: thousands of versions, three a day until today."""
    chance = random.Random(1)
    names = [f"@scope/dependency-{number}" for number in range(60)]
    made: list[dict[str, Any]] = []
    length = 0
    while length < size:
        version = f"{len(made) // 400}.{len(made) // 20 % 20}.{len(made) % 20}"
        made.append(_version(version, port, names, chance))
        length += len(json.dumps(made[-1], separators=(",", ":"))) + 45
    now = dt.datetime.now(dt.UTC)
    times = {
        each["version"]: (now - dt.timedelta(hours=8 * (len(made) - at))).isoformat() for at, each in enumerate(made)
    }
    document = {
        "name": _PACKAGE,
        "dist-tags": {"latest": made[-1]["version"]},
        "versions": {each["version"]: each for each in made},
        "time": {"created": times["0.0.0"], "modified": now.isoformat(), **times},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _version(version: str, port: int, names: list[str], chance: random.Random) -> dict[str, Any]:
    def some(count: int) -> dict[str, str]:
        return {name: f"^{chance.randrange(9)}.{chance.randrange(9)}.0" for name in chance.sample(names, count)}

    return {
        "name": _PACKAGE, "version": version, "description": "A package of some size", "license": "MIT",
        "main": "./lib/index.js", "repository": {"type": "git", "url": "git+https://example.com/x.git"},
        "scripts": {"build": "tsc -p .", "test": "jest --coverage", "prepare": "npm run build"},
        "dependencies": some(14), "devDependencies": some(10), "engines": {"node": ">=18"},
        "gitHead": f"{chance.getrandbits(160):040x}", "_id": f"{_PACKAGE}@{version}",
        "maintainers": [{"name": f"maintainer-{number}", "email": "m@example.com"} for number in range(4)],
        "dist": {
            "integrity": f"sha512-{chance.getrandbits(512):0128x}", "shasum": f"{chance.getrandbits(160):040x}",
            "tarball": f"https://localhost:{port}/{_PACKAGE}/-/{_PACKAGE}-{version}.tgz",
            "fileCount": chance.randrange(100), "unpackedSize": chance.randrange(10**6),
        },
    }  # fmt: skip


@contextmanager
def _registry(directory: Path) -> Iterator[tuple[int, int]]:
    """Two ports of one server: one to be filtered, one not."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bodies: dict[int, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = bodies[self.server.server_port]  # type: ignore[attr-defined]  # it is an HTTPServer
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: it would be part of what is measured."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    body = gzip.compress(packument(servers[0].server_port))
    for server in servers:
        bodies[server.server_port] = body
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield servers[0].server_port, servers[1].server_port
    finally:
        for server in servers:
            server.shutdown()


@contextmanager
def _proxy(directory: Path, filtered: int, plain: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    workspace = directory / "ws"
    workspace.mkdir(mode=0o700)
    registry = f"{{host: localhost, ports: [{filtered}], addresses: [private], registry: {{kind: npm, min_age: 7d}}}}"
    other = f"{{host: localhost, ports: [{plain}], addresses: [private], methods: [GET]}}"
    policy = f"version: 1\nanonymous: global\nglobal:\n  allow:\n    - {registry}\n    - {other}\n"
    (workspace / "policy.yaml").write_text(policy)
    words = [_PROGRAM, "serve", "--workspace", str(workspace), "--listen", "127.0.0.1:0"]
    words += ["--control", "off", "--metrics", "off"]
    environment = {**os.environ, "SSL_CERT_FILE": str(directory / "ca.pem")}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = (process.stdout or sys.stdin).readline()
        yield process, int(line.rstrip().rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def _peak(pid: int) -> float:
    """Megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


def _milliseconds(proxy: int, port: int, authority: ssl.SSLContext) -> tuple[float, int]:
    """From the request to the last byte, on a connection whose TLS stands already; and how many bytes came."""
    client = http.client.HTTPSConnection("127.0.0.1", proxy, context=authority)
    client.set_tunnel("localhost", port)
    client.connect()
    began = time.perf_counter()
    client.request("GET", f"/{_PACKAGE}", headers={"Accept-Encoding": "gzip"})
    response = client.getresponse()
    body = response.read()
    took = (time.perf_counter() - began) * 1000
    client.close()
    if response.status != http.client.OK:
        raise RuntimeError(f"{response.status}: {body[:300]!r}")
    return took, len(body)


def _cpu(pid: int) -> float:
    """Milliseconds of processor time so far."""
    return cpu_seconds(pid) * 1000


def measure(rounds: int = 9) -> dict[str, float]:
    """Milliseconds and megabytes that the filter adds, and what they are added to."""
    with (
        tempfile.TemporaryDirectory(prefix="cloned-bench-") as name,
        _registry(Path(name)) as (filtered, plain),
        _proxy(Path(name), filtered, plain) as (process, proxy),
    ):
        bundle = Path(name) / "ws" / "ca" / "cloned-proxy-ca.pem"
        subprocess.run([_PROGRAM, "ca", "path", "--workspace", str(Path(name) / "ws")], check=True, capture_output=True)
        authority = ssl.create_default_context(cafile=str(bundle))
        authority.check_hostname = False  # http.client would look for the name of the proxy
        both: list[tuple[float, float]] = []
        peaks: list[float] = []
        _milliseconds(proxy, plain, authority)
        before = _peak(process.pid)
        spent = [0.0, 0.0]
        for _ in range(rounds):
            start = _cpu(process.pid)
            without, _ = _milliseconds(proxy, plain, authority)
            between = _cpu(process.pid)
            took, size = _milliseconds(proxy, filtered, authority)
            spent = [spent[0] + between - start, spent[1] + _cpu(process.pid) - between]
            if size < _SIZE * 0.05:
                raise RuntimeError(f"only {size} bytes came: too much was left out")
            both.append((without, took))
            peaks.append(_peak(process.pid))
        return {
            "unfiltered_ms": median(without for without, _ in both),
            "filtered_ms": median(took for _, took in both),
            "added_ms": median(took - without for without, took in both),
            "added_cpu_ms": (spent[1] - spent[0]) / rounds,
            "added_mb": max(peaks) - before,
            "added_mb_once": peaks[0] - before,
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.registry")
    parser.add_argument("--rounds", type=int, default=9)
    found = {name: round(value, 1) for name, value in measure(parser.parse_args().rounds).items()}
    print(json.dumps(found))
    met = found["added_ms"] <= MILLISECONDS and found["added_mb"] <= MEGABYTES
    verdict = f"{'met' if met else 'MISSED'} ({MILLISECONDS:.0f} ms, {MEGABYTES:.0f} MB)"
    print(f"{verdict}; load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
