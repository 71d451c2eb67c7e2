"""`python -m bench.fleet_cost`: what set-ups and plain requests cost a replica of a fleet, beside the same build alone.

The proxies are loaded in turn for a moment each, again and again, each time in another order, so that whatever else the
machine does meets them all. What one costs is its CPU time from the begin of its turn until a while after it, since a
fleet's work comes behind the traffic, without what it takes at rest, by what was done. A turn gives one ratio: to the
mean of two that run alone. Of the ratios the estimate of Hodges and Lehmann is told, with the 95 % interval of
Wilcoxon's signed ranks: a turn that something disturbed has no more weight than another.

Two processes of one program differ by their places in memory for as long as they run. So all are started anew a few
times; what the two differ by that run alone is told as well, and should be nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from http import HTTPStatus
from operator import truediv
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

import redis
import uvloop

from bench.clients import Load, drive
from bench.contenders import Contender, Ours
from bench.fleet import Store
from bench.measure import tree
from bench.upstream_process import UpstreamProcess
from bench.workloads import WORKLOADS, Workload
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import Number, Statement, seal_statement

_STARTS: Final = 3
_ROUNDS: Final = 8
"""After each start; a multiple of the contenders, so that each has each place as often."""
_SECONDS: Final = 0.9
_SETTLES_SECONDS: Final = 1.5
"""Until all of a turn is sent to the store: that begins a second later at most."""
_CLIENTS: Final = 32
_NO_LIMIT: Final = 10_000_000
_RULES: Final = 10
_PATIENCE: Final = 60.0
_GOAL: Final = 0.03
_ALONE: Final = ("alone", "alone once more")
_WORK: Final = {"setup": "a set-up", "http": "a plain request"}


class Replica(Ours):
    """Follows a policy that says the same."""

    name = "in a fleet"
    store: Store
    audit_entries = 10_000

    def command(self) -> list[str]:
        command, key, names = super().command(), SigningKey.generate(), Names("bench")
        policy = self.policy.read_bytes()
        raw = seal_statement(Statement("bench", Number(1, 1), policy, {}, time.time(), "bench", "bench"), [key])
        with redis.Redis(unix_socket_path=str(self.store.socket)) as client:
            sha256 = hashlib.sha256(policy).hexdigest()
            client.hset(names.policy, mapping={"epoch": 1, "version": 1, "sha256": sha256, "envelope": raw})
        config = self.policy.with_name("config.yaml")
        config.write_text(
            "audit: {denials_per_minute: 1000000000}\n"
            f"fleet: {{name: bench, store: 'unix://{self.store.socket}', trust: ['{key.public}'], "
            f"audit_entries: {self.audit_entries}}}\n"
        )
        return command

    def start(self) -> None:
        """Returns once the policy has come."""
        super().start()
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz") as answer:
                if answer.status == HTTPStatus.OK:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: no policy within {_PATIENCE:.0f} s")
            time.sleep(0.05)


class Alone(Ours):
    name = _ALONE[0]


class Again(Ours):
    name = _ALONE[1]


class Silent(Replica):
    """A replica whose log stays at home (`audit_entries: 0`, or OTLP elsewhere)."""

    name = "in a fleet, no log shipped"
    audit_entries = 0


def spent(contender: Contender) -> float:
    """CPU-seconds of its processes that live, to the nanosecond: the ticks of /proc are a hundredth of a slice."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in tree(contender.pid))  # clock_getcpuclockid(3)


class Loaded:
    """One contender, which is loaded in turns and rests in between."""

    def __init__(self, contender: Contender) -> None:
        self.name: Final = contender.name
        self._contender: Final = contender
        self._turns: dict[str, list[tuple[float, int]]] = {}
        """CPU-seconds of each turn by workload, with those of what comes behind it, and what was done."""
        self._settled: asyncio.Task[tuple[float, float]] | None = None
        """CPU-seconds so far, and when, at the end of the last turn."""
        self._idle_cpu = self._idle_seconds = 0.0

    async def take_turn(self, workload: Workload) -> None:
        contender = self._contender
        if self._settled is not None:
            cpu, since = await self._settled
            self._idle_cpu += spent(contender) - cpu
            self._idle_seconds += time.monotonic() - since
        before = spent(contender)
        address = contender.address_for(contender.ports[workload.port])
        load = Load(address, time.monotonic() + _SECONDS, _NO_LIMIT)
        await drive(load, workload.make(contender), _CLIENTS)
        if load.errors:
            raise RuntimeError(f"{workload.key}, {self.name}: {load.errors} failed")
        self._settled = asyncio.create_task(self._settle(workload.key, before, load.count))

    async def _settle(self, key: str, before: float, count: int) -> tuple[float, float]:
        await asyncio.sleep(_SETTLES_SECONDS)
        cpu = spent(self._contender)
        self._turns.setdefault(key, []).append((cpu - before, count))
        return cpu, time.monotonic()

    async def costs(self, key: str) -> list[float]:
        """CPU-seconds of one piece of work, turn by turn; what it takes at rest, while it settles, is none of it."""
        if self._settled is not None:
            await self._settled
        resting = _SETTLES_SECONDS * self._idle_cpu / self._idle_seconds
        return [(cpu - resting) / count for cpu, count in self._turns[key]]


async def compare(contenders: list[Contender], ratios: dict[str, list[float]]) -> None:
    """Adds to `ratios` by workload and contender: 1.03 costs 3 % more than alone."""
    workloads = [each for each in WORKLOADS if isinstance(each, Workload) and each.key in _WORK]
    loaded = [Loaded(each) for each in contenders]
    for turn in range(-1, _ROUNDS):
        start = turn % len(loaded)
        for workload in workloads:
            for each in loaded[start:] + loaded[:start]:
                await each.take_turn(workload)
    for key, work in _WORK.items():
        costs = {each.name: (await each.costs(key))[1:] for each in loaded}  # the first warms it
        one, again = (costs.pop(name) for name in _ALONE)
        alone = [(cost + other) / 2 for cost, other in zip(one, again, strict=True)]
        for name, cost in costs.items():
            ratios.setdefault(f"{work}, {name}", []).extend(map(truediv, cost, alone))
        ratios.setdefault(f"{work}, the noise", []).extend(map(truediv, again, one))


class Interval(NamedTuple):
    middle: float
    low: float
    high: float


def interval(values: list[float]) -> Interval:
    """Hodges and Lehmann's estimate of where the values lie, and its interval of 95 % (normal approximation)."""
    count = len(values)
    means = sorted((one + other) / 2 for at, one in enumerate(values) for other in values[at:])
    spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    out = max(0, math.floor(len(means) / 2 - 1.96 * spread))
    half = len(means) // 2
    return Interval((means[half] + means[~half]) / 2, means[out], means[~out])


def verdict(found: Interval) -> str:
    if found.high <= _GOAL:
        return "met"
    return "missed" if found.low > _GOAL else "missed: the interval holds the goal, so that this run does not show it"


def main() -> int:
    memory = Path("/dev/shm")
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name, ExitStack() as parts:
        directory = Path(name)
        ports = parts.enter_context(UpstreamProcess(directory))
        for start in range(_STARTS):
            _run(directory / str(start), ports, ratios)
    figures: dict[str, float] = {"load": round(os.getloadavg()[0], 1)}
    for each, values in ratios.items():
        found = Interval(*(round(value - 1, 4) for value in interval(values)))
        figures |= {each: found.middle, f"{each}, at least": found.low, f"{each}, at most": found.high}
        goal = "" if "noise" in each else f"; at most {_GOAL:.0%}: {verdict(found)}"
        sys.stderr.write(f"{each}: {found.middle:+.1%} ({found.low:+.1%} to {found.high:+.1%}){goal}\n")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


def _run(directory: Path, ports: tuple[int, int], ratios: dict[str, list[float]]) -> None:
    """All contenders, started anew."""
    with ExitStack() as parts:
        (directory / "store").mkdir(parents=True)
        Replica.store = store = Store(directory / "store")
        parts.callback(store.end)
        contenders: list[Contender] = []
        for number, kind in enumerate((Alone, Replica, Silent, Again)):
            contender = kind(directory / f"run{number}", ports, _RULES)
            contender.start()
            parts.callback(contender.stop)
            contenders.append(contender)
        uvloop.run(compare(contenders, ratios))


if __name__ == "__main__":
    sys.exit(main())
