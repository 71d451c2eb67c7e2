"""`python -m bench.fleet_cost`: what set-ups and plain requests cost a replica of a fleet, beside the same build alone.

All proxies run all the time and are measured in turn, each time in another order, so that whatever else the machine
does meets them all. The share of one is the median over the rounds of (per CPU-second alone) / (per CPU-second of it)
- 1. One of them is the same build alone once more: what it "costs" is the noise of the run, and its quartiles say how
far a single round is off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import redis
import uvloop

from bench.contenders import Contender, Ours
from bench.fleet import Store
from bench.upstream_process import UpstreamProcess
from bench.workloads import WORKLOADS, Workload
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import Number, Statement, seal_statement

_ROUNDS: Final = 12
"""A multiple of the contenders, so that each has each place as often."""
_SECONDS: Final = 2.0
_RULES: Final = 10
_PATIENCE: Final = 60.0
_KEYS: Final = ("setup", "http")


class Replica(Ours):
    """Follows a policy that says the same."""

    name = "cloned-proxy in a fleet"
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


class Again(Ours):
    """The control."""

    name = "cloned-proxy, alone once more"


class Silent(Replica):
    """Its log stays at home (`audit_entries: 0`, or OTLP elsewhere)."""

    name = "cloned-proxy in a fleet, no log shipped"
    audit_entries = 0


async def compare(contenders: list[Contender]) -> dict[str, dict[str, float]]:
    """How much more CPU each costs than the first contender, by workload and name: median and quartiles (0.03: 3 %)."""
    workloads = [each for each in WORKLOADS if isinstance(each, Workload) and each.key in _KEYS]
    more: dict[str, list[float]] = {}
    for turn in range(_ROUNDS):
        for workload in workloads:
            start = turn % len(contenders)
            order = contenders[start:] + contenders[:start]
            found = {each.name: await workload.run(each, _SECONDS) for each in order}
            if any(sample.errors for sample in found.values()):
                raise RuntimeError(f"{workload.key}: {[(name, sample.errors) for name, sample in found.items()]}")
            base = found[contenders[0].name].per_cpu
            for each in contenders[1:]:
                more.setdefault(f"{workload.key}, {each.name}", []).append(base / found[each.name].per_cpu - 1)
    return {name: _spread(values) for name, values in more.items()}


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "from": round(low, 4), "to": round(high, 4)}


def main() -> int:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name, ExitStack() as parts:
        directory = Path(name)
        (directory / "store").mkdir()
        store = Store(directory / "store")
        parts.callback(store.end)
        ports = parts.enter_context(UpstreamProcess(directory))
        contenders: list[Contender] = []
        Replica.store = store
        for number, kind in enumerate((Ours, Replica, Silent, Again)):
            contender = kind(directory / f"run{number}", ports, _RULES)
            contender.start()
            parts.callback(contender.stop)
            contenders.append(contender)
        result = uvloop.run(compare(contenders))
    sys.stdout.write(json.dumps({**result, "load": round(os.getloadavg()[0], 1)}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
