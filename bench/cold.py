"""Set-ups with a cold cache: each connection goes to a host that nobody has asked for before.

What the native plane cannot know yet it asks Python, which makes a verdict that is used once. That must not be slower
than the same build without it. The hosts are addresses of loopback: no resolver takes part.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.clients import Load, MakeClient, Tunnel, drive
from bench.contenders import Contender, Ours, OursPython, rule_hosts
from bench.measure import Sample
from bench.upstream import EVERYWHERE
from bench.upstream_process import UpstreamProcess
from bench.wire import marked_hello, real_hello

KINDS: Final[tuple[type[Contender], ...]] = (Ours, OursPython)
_HOSTS: Final = [f"127.9.{number // 250}.{number % 250 + 1}" for number in range(12_000)]
_CLIENTS: Final = 32
_WARM_UP: Final = 500
"""Set-ups, to other hosts than those that are measured."""
_FIRST: Final = marked_hello(real_hello(_HOSTS[0]), 0)
"""A client names no address in its hello (RFC 6066, section 3), so one hello does for all."""


@contextlib.contextmanager
def upstream() -> Iterator[tuple[int, int]]:
    """Ports that answer at every address of loopback."""
    with tempfile.TemporaryDirectory() as directory, UpstreamProcess(Path(directory), EVERYWHERE) as ports:
        yield ports


def start(contender: Ours) -> None:
    """Starts it under a policy that allows every one of the hosts."""
    contender.start()
    contender.write_policy(rule_hosts(1), *_HOSTS)


def _clients(port: int, hosts: Iterator[str]) -> MakeClient:
    class Cold(Tunnel):
        first = _FIRST

        def target(self) -> str:
            return f"{next(hosts)}:{port}"

    return Cold


async def measure(contender: Ours, seconds: float) -> Sample:
    """Set-ups, none of them to a host of an earlier one. Raises TimeoutError when the policy comes not into force."""
    hosts = iter(_HOSTS)
    port = contender.ports[1]
    await _in_force(contender, port)
    await drive(Load(contender.address, time.monotonic() + seconds, _WARM_UP), _clients(port, hosts), _CLIENTS)
    before, began = contender.cpu(), time.monotonic()
    left = len(_HOSTS) - _WARM_UP - _CLIENTS
    load = Load(contender.address, began + seconds, left)
    await drive(load, _clients(port, hosts), _CLIENTS)
    return Sample(load.count, time.monotonic() - began, contender.cpu() - before, load.latencies, load.errors)


async def _in_force(contender: Ours, port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            # The last one of the file: when it passes, all do.
            probe = Load(contender.address, time.monotonic() + 1, 1)
            await drive(probe, _clients(port, iter([_HOSTS[-1]])), 1)
            if probe.count:
                return
            await asyncio.sleep(0.1)
