"""Requests and bytes in opened TLS, HTTP/1.1: ours, ours with an injected secret, stock mitmdump, Squid with ssl-bump.

python -m bench.inspected      rounds in turns; 32 kept connections for requests, four for bytes, eight new at a time

The goal, per CPU-second of the proxy: at least three times mitmdump's requests. All TLS is real, on both sides;
mitmdump alone does not verify its upstream. Squid's rows need Debian's `squid-openssl`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

import trustme
import uvloop

from bench.contenders import Contender, Mitmdump, Squid
from bench.measure import Sample, cpu_seconds, median, percentile
from bench.opened import BIG, BIG_BYTES, Opening, tunnel, upstream
from bench.wire import HOST

_REQUESTS: Final = ("/v1/things", 2, 32)
"""Path, bytes of the answer, connections at once."""
_NEW: Final = ("/v1/things", 2, 8)
"""Each request on a connection of its own: a CONNECT and two handshakes."""
_BYTES: Final = (BIG, BIG_BYTES, 4)
_WARM_UP: Final = 0.5
_SECONDS: Final = 3.0
_END: Final = b"\r\n\r\n"
_CERTIFICATES: Final = Path("/usr/lib/squid/security_file_certgen")


class _Injecting(Opening):
    """Ours, with a secret of the vault in each request, and each response searched for it."""

    terms: ClassVar[str] = "inject: {header: Authorization, value: 'Bearer ${vault:bench.key}'}, "

    def command(self) -> list[str]:
        command = super().command()
        keep = [command[0], "vault", "set", "bench.key", "--workspace", str(self.policy.parent)]
        subprocess.run(keep, input=b"a-secret-of-32-characters-length\n", check=True, capture_output=True)
        return command


class _BumpingSquid(Squid):
    """Opens TLS with a CA of its own, and verifies its upstream."""

    name = "Squid with ssl-bump"

    @classmethod
    def version(cls) -> str | None:
        return super().version() if _CERTIFICATES.exists() else None

    def command(self) -> list[str]:
        command, here = super().command(), self.directory
        authority, pem, made = trustme.CA(), here / "ca.pem", here / "certificates"
        pem.write_bytes(authority.private_key_pem.bytes() + authority.cert_pem.bytes())
        subprocess.run([_CERTIFICATES, "-c", "-s", made, "-M", "4MB"], check=True, capture_output=True)
        if os.geteuid() == 0:  # started as root it becomes this user
            for path in (made, *made.rglob("*"), pem):
                shutil.chown(path, "proxy")
        port = f"http_port 127.0.0.1:{self.port}"
        bumping = (
            f"{port} ssl-bump cert={pem} generate-host-certificates=on\n"
            f"sslcrtd_program {_CERTIFICATES} -s {made} -M 4MB\nssl_bump bump all\n"
            f"tls_outgoing_options cafile={os.environ['SSL_CERT_FILE']}\n"
        )
        conf = here / "squid.conf"
        conf.write_text(conf.read_text().replace(f"{port}\n", bumping))
        return command


_CONTENDERS: Final[dict[str, type[Contender]]] = {
    "ours": Opening,
    "inject": _Injecting,
    "mitmdump": Mitmdump,
    "squid": _BumpingSquid,
}


@dataclass(slots=True)
class _Work:
    until: float
    latencies: list[float] = field(default_factory=list)


async def _client(contender: Contender, port: int, path: str, size: int, work: _Work, *, keep: bool) -> None:
    reader, writer = await tunnel(contender, port, "http/1.1")
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n".encode()
    while time.monotonic() < work.until:
        began = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(_END)
        if not head.startswith(b"HTTP/1.1 200"):
            raise OSError(head.decode("latin-1"))
        await reader.readexactly(size)
        work.latencies.append(time.monotonic() - began)
        if not keep or b"connection: close" in head.lower():
            writer.transport.abort()
            reader, writer = await tunnel(contender, port, "http/1.1")
    writer.transport.abort()


async def _measured(contender: Contender, port: int, what: tuple[str, int, int], *, keep: bool = True) -> Sample:
    path, size, clients = what

    async def load(seconds: float) -> _Work:
        work = _Work(time.monotonic() + seconds)
        await asyncio.gather(*(_client(contender, port, path, size, work, keep=keep) for _ in range(clients)))
        return work

    await load(_WARM_UP)
    before, began = cpu_seconds(contender.pid), time.monotonic()
    work = await load(_SECONDS)
    elapsed, cpu = time.monotonic() - began, cpu_seconds(contender.pid) - before
    return Sample(len(work.latencies), elapsed, cpu, work.latencies)


async def measure(rounds: int) -> dict[str, float]:
    """By contender: requests per CPU-second and p99, megabytes (10^6) per CPU-second; and what the goals are about."""
    names = [name for name, kind in _CONTENDERS.items() if kind.version() is not None]
    for name in _CONTENDERS.keys() - names:
        sys.stderr.write(f"LEFT OUT: {_CONTENDERS[name].name}; install squid-openssl\n")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, upstream(Path(directory)) as port:
        os.chmod(directory, 0o755)  # noqa: PTH101  Squid, started as root, becomes another user
        for number in range(rounds):
            for name in names:
                contender = _CONTENDERS[name](Path(directory) / f"{name}{number}", (port, port), 1)
                contender.start()
                try:
                    requests = await _measured(contender, port, _REQUESTS)
                    alone = await _measured(contender, port, _NEW, keep=False)
                    carried = await _measured(contender, port, _BYTES)
                finally:
                    contender.stop()
                figures = {
                    "requests_per_cpu_second": requests.per_cpu,
                    "requests_per_second": requests.rate,
                    "connections_per_cpu_second": alone.per_cpu,
                    "p99_ms": percentile(requests.latencies, 0.99) * 1000,
                    "mb_per_cpu_second": carried.per_cpu * BIG_BYTES / 1e6,
                    "mb_per_second": carried.rate * BIG_BYTES / 1e6,
                }
                for key, value in figures.items():
                    found.setdefault(f"inspected_{name}_{key}", []).append(value)
                said = ", ".join(f"{key} {value:.0f}" for key, value in figures.items())
                sys.stderr.write(f"round {number + 1}  {name:<10} {said}\n")
    medians = {key: median(values) for key, values in found.items()}
    for name in {"ours", "inject", "squid"} & set(names):
        for what, key in (("", "requests"), ("_connections", "connections")):
            theirs = medians[f"inspected_mitmdump_{key}_per_cpu_second"]
            medians[f"inspected_{name}{what}_of_mitmdump"] = medians[f"inspected_{name}_{key}_per_cpu_second"] / theirs
    return {key: round(value, 2) for key, value in sorted(medians.items())} | {"load": round(os.getloadavg()[0], 1)}


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.inspected", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(uvloop.run(measure(chosen.rounds)), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
