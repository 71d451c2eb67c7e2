"""Requests in opened TLS: HTTP/2 beside our own HTTP/1.1, and beside stock mitmdump's HTTP/2.

python -m bench.opened      rounds in turns; 32 requests under way, each answered with two bytes

Goals, per CPU-second of the proxy: at least 0.8 of our HTTP/1.1, and at least three times mitmdump. The upstream is a
process of its own and speaks what it is asked for; all TLS is real.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import trustme
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded, StreamReset

from bench.contenders import Contender, Mitmdump, Ours
from bench.measure import Sample, cpu_seconds, median
from bench.wire import HOST, trusting_context

_UNDER_WAY: Final = 32
_STREAMS: Final = 8
"""On each connection of HTTP/2."""
_WARM_UP: Final = 0.5
_SECONDS: Final = 3.0
_END: Final = b"\r\n\r\n"
BIG: Final = "/v1/big"
"""The path of a body of BIG_BYTES."""
BIG_BYTES: Final = 4 * 1024**2
_BIG_BODY: Final = bytes(range(256)) * (BIG_BYTES // 256)
_HEAD: Final = [
    ("user-agent", "bench/1"), ("accept", "*/*"), ("accept-encoding", "gzip, deflate"), ("authorization", "Bearer x"),
]  # fmt: skip


class Opening(Ours):
    """Ours, with a rule that opens the TLS."""

    terms: ClassVar[str] = ""
    """What else the rule says."""

    def write_policy(self, hosts: list[str], *literals: str) -> float:  # noqa: ARG002  one rule is enough
        port = self.ports[1]
        entry = f"{{host: {HOST}, ports: [{port}], paths: ['/v1/**'], {self.terms}addresses: [private]}}"
        self.policy.write_text(f"version: 1\nanonymous: global\nglobal:\n  allow: [{entry}]\n")
        self.policy.chmod(0o600)
        return time.monotonic()


@dataclass(slots=True)
class _Work:
    until: float
    count: int = 0
    errors: int = 0


async def tunnel(contender: Contender, port: int, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*contender.address)
    writer.write(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
    answer = await reader.readuntil(_END)
    if b" 200 " not in answer.split(b"\r\n")[0]:
        raise OSError(answer.decode("latin-1"))
    context = trusting_context()
    context.set_alpn_protocols([protocol])
    await writer.start_tls(context, server_hostname=HOST)
    return reader, writer


async def _http1(contender: Contender, port: int, work: _Work) -> None:
    reader, writer = await tunnel(contender, port, "http/1.1")
    fields = "".join(f"{name}: {value}\r\n" for name, value in _HEAD)
    request = f"GET /v1/things HTTP/1.1\r\nHost: {HOST}:{port}\r\n{fields}\r\n".encode()
    while time.monotonic() < work.until:
        writer.write(request)
        head = await reader.readuntil(_END)
        await reader.readexactly(2)
        if not head.startswith(b"HTTP/1.1 200"):
            raise OSError(head.decode("latin-1"))
        work.count += 1
        if b"connection: close" in head.lower():
            writer.transport.abort()
            reader, writer = await tunnel(contender, port, "http/1.1")
    writer.transport.abort()


async def _http2(contender: Contender, port: int, work: _Work) -> None:
    reader, writer = await tunnel(contender, port, "h2")
    plain = H2Configuration(
        client_side=True, header_encoding="latin-1", validate_inbound_headers=False, validate_outbound_headers=False
    )
    connection = H2Connection(plain)
    connection.initiate_connection()
    head = [(":method", "GET"), (":scheme", "https"), (":authority", f"{HOST}:{port}"), (":path", "/v1/things"), *_HEAD]

    def ask() -> None:
        connection.send_headers(connection.get_next_available_stream_id(), head, end_stream=True)

    under_way = _STREAMS
    for _ in range(_STREAMS):
        ask()
    while under_way:
        writer.write(connection.data_to_send())
        data = await reader.read(65_536)
        if not data:
            break
        for event in connection.receive_data(data):
            if isinstance(event, StreamReset):
                work.errors += 1
            elif not isinstance(event, StreamEnded):
                continue
            else:
                work.count += 1
            if time.monotonic() < work.until:
                ask()
            else:
                under_way -= 1
    work.errors += under_way
    writer.transport.abort()


async def _measured(contender: Contender, port: int, *, http2: bool) -> Sample:
    clients = _UNDER_WAY // _STREAMS if http2 else _UNDER_WAY
    speak = _http2 if http2 else _http1

    async def load(seconds: float) -> _Work:
        work = _Work(time.monotonic() + seconds)
        await asyncio.gather(*(speak(contender, port, work) for _ in range(clients)))
        return work

    await load(_WARM_UP)
    before, began = cpu_seconds(contender.pid), time.monotonic()
    work = await load(_SECONDS)
    return Sample(work.count, time.monotonic() - began, cpu_seconds(contender.pid) - before, errors=work.errors)


async def measure(rounds: int) -> dict[str, float]:
    """Requests per CPU-second, and the two ratios."""
    ways: tuple[tuple[str, type[Contender], bool], ...] = (
        ("http2", Opening, True),
        ("http1", Opening, False),
        ("mitmdump_http2", Mitmdump, True),
    )
    found: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    with tempfile.TemporaryDirectory() as directory, upstream(Path(directory)) as port:
        for number in range(rounds):
            for name, kind, http2 in ways:
                contender = kind(Path(directory) / f"{name}{number}", (port, port), 1)
                contender.start()
                try:
                    sample = await _measured(contender, port, http2=http2)
                finally:
                    contender.stop()
                if sample.errors:
                    raise SystemExit(f"{name}: {sample.errors} requests failed")
                found[name].append(sample.per_cpu)
                sys.stderr.write(f"round {number + 1}  {name:<16} {sample.per_cpu:.0f} per CPU-second\n")
    rates = {name: median(values) for name, values in found.items()}
    of_http1, of_mitmdump = rates["http2"] / rates["http1"], rates["http2"] / rates["mitmdump_http2"]
    return {
        **{f"opened_{name}_per_cpu_second": round(rate) for name, rate in rates.items()},
        "opened_http2_of_http1": round(of_http1, 2),
        "opened_http2_of_mitmdump": round(of_mitmdump, 2),
        "load": round(os.getloadavg()[0], 1),
    }


@contextlib.contextmanager
def upstream(directory: Path) -> Iterator[int]:
    """Starts the upstream and gives its port; its CA is what the proxy trusts."""
    pem = directory / "ca.pem"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.opened", "--upstream", str(pem)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        os.environ["SSL_CERT_FILE"] = str(pem)
        yield port
    finally:
        process.terminate()
        process.wait()


async def _answer_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = H2Connection(
        H2Configuration(client_side=False, validate_inbound_headers=False, validate_outbound_headers=False)
    )
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while data := await reader.read(65_536):
        for event in connection.receive_data(data):
            if isinstance(event, RequestReceived) and event.stream_id is not None:
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                connection.send_data(event.stream_id, b"ok", end_stream=True)
        writer.write(connection.data_to_send())


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    session = writer.get_extra_info("ssl_object")
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        if session.selected_alpn_protocol() == "h2":
            await _answer_http2(reader, writer)
        else:
            while head := await reader.readuntil(_END):
                body = _BIG_BODY if head.startswith(f"GET {BIG} ".encode()) else b"ok"
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                writer.write(body)
                await writer.drain()
    writer.transport.abort()


async def _serve(pem: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.opened", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--upstream", type=Path, help="be the upstream, and write its CA there")
    chosen = parser.parse_args()
    if chosen.upstream is not None:
        uvloop.run(_serve(chosen.upstream))
    else:
        sys.stdout.write(json.dumps(uvloop.run(measure(chosen.rounds)), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
