"""What only time shows: how long a big policy takes to act, whom that stalls, and whether memory stays flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from bench.clients import Client, Load, connect, drive
from bench.contenders import Ours, rule_hosts
from bench.measure import median, percentile, rss_bytes
from bench.workloads import denied, http, set_up

_WAIT_SECONDS: Final = 10.0
_AFTERWARDS_SECONDS: Final = 1.0
_ASK_PAUSE: Final = 0.005
_PROBES: Final = 2
_CLIENTS: Final = 32
_NO_LIMIT: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class ReloadFigures:
    """Milliseconds."""

    active: float
    """From the moment the file is in place to the first request that the new rules decide; the median."""
    stall: float
    """The longest that a request took meanwhile, or within a second afterwards; of all rounds."""
    usual: float
    """p99 of the same requests without a reload."""


class _Asked(Client):
    """Tells by the status whether a literal on which nobody listens is allowed: 502, not 403."""

    literal = ""
    port = 0
    status = b""

    def start(self) -> None:
        authority = f"{self.literal}:{self.port}"
        self.transport.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= 12:
            self.status = self.received[9:12]
            self.end(well=True)
            self.transport.abort()


async def reload_figures(ours: Ours, hosts: int, rounds: int) -> ReloadFigures:
    """Saves a file with `hosts` hosts `rounds` times while a few clients go on asking."""
    usual = await _latencies_during(ours, asyncio.sleep(1.0))
    active: list[float] = []
    stalls: list[float] = []
    for number in range(rounds):
        saved: list[float] = []
        stalls += await _latencies_during(ours, _save(ours, hosts, f"127.9.8.{number + 1}", saved))
        active += saved
    return ReloadFigures(median(active) * 1e3, max(stalls) * 1e3, percentile(usual, 0.99) * 1e3)


async def _save(ours: Ours, hosts: int, literal: str, saved: list[float]) -> None:
    class Asked(_Asked):
        pass

    Asked.literal, Asked.port = literal, ours.ports[1]
    # Written in another thread: this loop's own stall would be counted as the proxy's.
    began = await asyncio.to_thread(ours.write_policy, rule_hosts(hosts), literal)
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        answered = await connect(Load(ours.address, deadline, 1), Asked)
        if isinstance(answered, _Asked) and answered.status == b"502":
            saved.append(time.monotonic() - began)
            break
        await asyncio.sleep(_ASK_PAUSE)
    else:
        raise TimeoutError(f"a policy of {hosts} hosts was not in force after {_WAIT_SECONDS:.0f} s")
    await asyncio.sleep(_AFTERWARDS_SECONDS)


async def _latencies_during(ours: Ours, work: Awaitable[object]) -> list[float]:
    forever = time.monotonic() + 3600
    loads = (Load(ours.address, forever, _NO_LIMIT), Load(ours.address, forever, _NO_LIMIT))
    probing = [
        asyncio.create_task(drive(load, make(ours), _PROBES)) for load, make in zip(loads, (http, denied), strict=True)
    ]
    try:
        await work
    finally:
        for load in loads:
            load.until = 0.0
        await asyncio.gather(*probing)
    return [latency for load in loads for latency in load.latencies]


async def memory_over(ours: Ours, requests: int, steps: int) -> list[float]:
    """Resident MB after the warm-up and after each of `steps` equal parts of `requests`, half HTTP and half CONNECT."""
    share = requests // steps // 2
    sizes: list[float] = []
    for step in range(steps + 1):
        count = share if step else 1_000
        for make in (http(ours), set_up(ours)):
            load = Load(ours.address, time.monotonic() + 300, count)
            await drive(load, make, _CLIENTS)
            if load.errors > count // 100:
                raise RuntimeError(f"{load.errors} of {count} requests failed")
        sizes.append(rss_bytes(ours.pid) / 1e6)
        print(f"  memory after {step * share * 2} requests: {sizes[-1]:.1f} MB", flush=True)
    return sizes
