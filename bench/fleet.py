"""`python -m bench.fleet`: publish to in force on many replicas, a store's restart, and what a fleet costs its store.

The replicas are tasks of this one process that run the real code of a replica (link, signature, parse, disk) without a
proxy around it, each in a workspace of its own: their processor time adds up here, so the figures are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import redis
import structlog
import uvloop

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.members.build import Fleet, build
from cloned_proxy.fleet.operating.publish import Publisher
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import Number
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.workspace import Workspace

POLICY = b"version: 1\nanonymous: global\nglobal:\n  allow:\n" + b"".join(b"    - h%d.example\n" % n for n in range(50))


class Store:
    """A redis-server of this run, on a unix socket."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "s"
        self._words = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory),
                       "--save", "", "--appendonly", "yes", "--maxclients", "20000"]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL)
        client = redis.Redis(unix_socket_path=str(self.socket))
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                time.sleep(0.005)
            else:
                return client.close()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def spent(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def replica(parts: AsyncExitStack, root: Path, settings: FleetSettings) -> Fleet:
    workspace = Workspace(root)
    workspace.create()
    fleet = build(workspace, Config(fleet=settings), settings, local_file=workspace.policy_file)
    await fleet.policy.start()
    parts.push_async_callback(fleet.policy.stop)
    await fleet.start(parts)
    return fleet


async def until(true: object) -> None:
    while not true():  # type: ignore[operator]  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def watch(fleets: list[Fleet], number: Number, times: dict[str, float]) -> None:
    for fleet in fleets:
        member = fleet.member
        told = fleet.policy.on_state if not hasattr(fleet.policy.on_state, "told") else fleet.policy.on_state.told

        def seen(fleet: Fleet = fleet, told: object = told) -> None:
            told()  # type: ignore[operator]
            if fleet.policy.number >= number:
                times.setdefault(str(fleet.policy.path), time.monotonic())

        seen.told = told  # type: ignore[attr-defined]
        fleet.policy.on_state = seen
        assert member is not None


async def measure(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fleet") as name:
        directory, key = Path(name), SigningKey.generate()
        store = Store(directory)
        settings = FleetSettings(name="bench", store=f"unix://{store.socket}", trust=[key.public])
        async with AsyncExitStack() as parts:
            began = time.monotonic()
            fleets = [await replica(parts, directory / f"r{each}", settings) for each in range(count)]
            await until(lambda: all(fleet.link and fleet.link.connected for fleet in fleets))
            print(f"{count} replicas connected in {time.monotonic() - began:.1f} s, load {os.getloadavg()[0]:.1f}")
            link = await parts.enter_async_context(Link(settings, base=directory))
            publisher = Publisher(link, Names("bench"), fleet="bench", trust=Trust([key.public]), keys=[key],
                                  record=directory / "published")  # fmt: skip
            all_times: list[float] = []
            last: list[float] = []
            store_before, own_before = store.spent(), time.process_time()
            for turn in range(1, rounds + 1):
                times: dict[str, float] = {}
                watch(fleets, Number(1, turn), times)
                sent = time.monotonic()
                await publisher.publish(POLICY + b"# %d\n" % turn, {}, author="b", reason="b", wait=0)
                await until(lambda: len(times) == count)  # noqa: B023
                each = [(at - sent) * 1000 for at in times.values()]
                all_times += each
                last.append(max(each))
            all_times.sort()
            p50, p99 = all_times[len(all_times) // 2], all_times[int(len(all_times) * 0.99)]
            print(f"publish to in force: p50 {p50:.0f} ms, p99 {p99:.0f} ms, all after {statistics.median(last):.0f} ms"
                  f" (median of {rounds}), load {os.getloadavg()[0]:.1f}")  # fmt: skip
            store_ms = (store.spent() - store_before) / rounds * 1000
            own_ms = (time.process_time() - own_before) / rounds / count * 1000
            own_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / count
            print(f"a publish costs the store {store_ms:.0f} ms CPU, the replicas {own_ms:.1f} ms each")
            print(f"memory: the store {store.mib():.0f} MiB, a replica {own_mib:.2f} MiB of this process")
            await asyncio.to_thread(store.end)
            await until(lambda: not any(fleet.link and fleet.link.connected for fleet in fleets))
            await asyncio.to_thread(store.start)
            back = time.monotonic()
            await until(lambda: all(fleet.link and fleet.link.connected for fleet in fleets))
            print(f"after a restart of the store all are back in {(time.monotonic() - back) * 1000:.0f} ms")
        store.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is missing: apt-get install redis-server")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    uvloop.run(measure(asked.replicas, asked.rounds))


if __name__ == "__main__":
    main()
