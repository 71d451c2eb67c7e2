"""What is done to each contender. Every workload is bounded in time and in count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.clients import Client, Denied, HttpClient, IdleTunnel, Load, MakeClient, TlsTunnel, Tunnel, connect, drive
from bench.contenders import Contender
from bench.measure import Sample, rss_bytes

_CLIENTS: Final = 32
_WARM_UP_SECONDS: Final = 0.2
_NO_LIMIT: Final = 10_000_000
_BULK_BYTES: Final = 3 * 1024**3
"""More than any tunnel carries in one sample; the time ends it."""
_IDLE_SECONDS: Final = 45.0
_SETTLE_SECONDS: Final = 1.0
_FEW: Final = 50
"""Set-ups before anything is measured."""
FIRST_AND_FURTHER: Final = (_FEW, 5_000, 0)
"""For `idle_memory`: between the first step and the last, bounded caches grow as far as they do, and what the other
set-ups have freed is taken again."""


def http(contender: Contender) -> MakeClient:
    class Http(HttpClient):
        port = contender.ports[0]

    return Http


def set_up(contender: Contender) -> MakeClient:
    class SetUp(Tunnel):
        port = contender.ports[1]
        asks = contender.asks
        first = contender.first_bytes(0)

    return SetUp


def handshake(contender: Contender) -> MakeClient:
    class Handshake(TlsTunnel):
        port = contender.ports[1]
        asks = contender.asks

    return Handshake


def denied(_contender: Contender) -> MakeClient:
    return Denied


@dataclass(frozen=True, slots=True)
class Workload:
    """Work that 32 clients repeat; the figure is how often in a second."""

    key: str
    title: str
    unit: str
    make: Callable[[Contender], MakeClient]
    latencies: bool = False
    """Whether p50 and p99 belong in the table."""
    port: int = 1
    """Which of the upstream's it is about."""
    needs_proxy: bool = False

    async def run(self, contender: Contender, seconds: float) -> Sample:
        make = self.make(contender)
        address = contender.address_for(contender.ports[self.port])
        await drive(Load(address, time.monotonic() + _WARM_UP_SECONDS, _NO_LIMIT), make, _CLIENTS)
        before, began = contender.cpu(), time.monotonic()
        load = Load(address, began + seconds, _NO_LIMIT)
        await drive(load, make, _CLIENTS)
        elapsed = time.monotonic() - began
        return Sample(load.count, elapsed, contender.cpu() - before, load.latencies, load.errors)


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes through `tunnels` tunnels at once, in megabytes (10^6)."""

    key: str
    title: str
    tunnels: int
    unit: str = "MB/s"
    latencies: bool = False
    needs_proxy: bool = False

    async def run(self, contender: Contender, seconds: float) -> Sample:
        class Bulk(Tunnel):
            port = contender.ports[1]
            asks = contender.asks
            first = contender.first_bytes(_BULK_BYTES)
            wanted = _BULK_BYTES

        address = contender.address_for(contender.ports[1])
        load = Load(address, time.monotonic() + seconds, self.tunnels)
        loop = asyncio.get_running_loop()
        clients = [Bulk(load) for _ in range(self.tunnels)]
        errors = 0
        for client in clients:
            try:
                await loop.create_connection(lambda it=client: it, *address)  # type: ignore[misc]
            except OSError:
                errors += 1
        await asyncio.sleep(_WARM_UP_SECONDS)
        before, began, carried = contender.cpu(), time.monotonic(), sum(c.arrived for c in clients)
        await asyncio.wait([client.done for client in clients], timeout=seconds, return_when=asyncio.ALL_COMPLETED)
        elapsed, cpu = time.monotonic() - began, contender.cpu() - before
        carried = sum(client.arrived for client in clients) - carried
        errors += sum(1 for client in clients if not client.arrived)
        for client in clients:
            client.transport.abort()
        return Sample(carried / 1e6, elapsed, cpu, errors=errors)


WORKLOADS: Final[tuple[Workload | Download, ...]] = (
    Workload("http", "Plain HTTP, keep-alive", "req/s", http, latencies=True, port=0),
    Workload("setup", "CONNECT, ClientHello, first bytes", "set-ups/s", set_up, latencies=True),
    Workload("tls", "CONNECT, whole TLS handshake, one request", "handshakes/s", handshake),
    Download("download1", "Download through one tunnel", 1),
    Download("download8", "Download through eight tunnels", 8),
    Workload("denied", "Denied CONNECT", "denials/s", denied, needs_proxy=True),
)
SET_UP: Final = WORKLOADS[1]


@dataclass(frozen=True, slots=True)
class IdleMemory:
    per_thousand: tuple[float, ...]
    """Resident MB that a thousand idle tunnels add, in each step."""
    whole: float
    """Resident MB of the proxy with all of them open."""
    held: int
    failed: int


async def idle_memory(contender: Contender, tunnels: int, served: tuple[int, ...] = (_FEW,)) -> IdleMemory:
    """What idle tunnels cost: in each step so many more are held, after so many other set-ups as `served` says.

    With few of them the first tunnels also fill caches that are bounded, and pools that later ones use again: of ours
    that of the audit log's pages (128 KiB), and what the first groups of entries are written with.
    """

    class Idle(IdleTunnel):
        port = contender.ports[1]
        first = contender.first_bytes(0)

    opened: list[Client | None] = []
    per_thousand: list[float] = []
    whole = held = 0
    for wanted, before in enumerate(served, 1):
        until = time.monotonic() + _IDLE_SECONDS
        await drive(Load(contender.address, until - 2 * _IDLE_SECONDS / 3, before), set_up(contender), _CLIENTS)
        await asyncio.sleep(_SETTLE_SECONDS)
        size, had = rss_bytes(contender.pid), held
        while len(opened) < tunnels * wanted and time.monotonic() < until:
            some = min(_CLIENTS, tunnels * wanted - len(opened))
            load = Load(contender.address, until, tunnels)
            opened += await asyncio.gather(*(connect(load, Idle) for _ in range(some)))
        await asyncio.sleep(_SETTLE_SECONDS)
        whole, held = rss_bytes(contender.pid), sum(1 for client in opened if client is not None)
        per_thousand.append((whole - size) / 1e3 / max(held - had, 1))
    _close(opened)
    return IdleMemory(tuple(per_thousand), whole / 1e6, held, tunnels * len(served) - held)


def _close(clients: list[Client | None]) -> None:
    for client in clients:
        if client is not None:
            client.transport.abort()
