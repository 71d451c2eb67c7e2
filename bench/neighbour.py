"""What a loop of denied calls costs another caller: nothing but time.

python -m bench.neighbour           prints one JSON object; part of `make bench`

The one needs no credential to be refused, the other has one and makes allowed calls. As shipped: what the one is
refused over its budget waits for its turn. The loop is a process of its own: no client of the other waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import uvloop

from bench.clients import Denied, Load, MakeClient, Tunnel, connect_head, drive
from bench.contenders import ContenderError, Ours
from bench.measure import median
from bench.upstream_process import UpstreamProcess
from bench.wire import HOST

_TOOL: Final = "bench.tool@v1"
_SECONDS: Final = 2.0
_FLOOD_CLIENTS: Final = 64
_CLIENTS: Final = 8
_NO_LIMIT: Final = 10_000_000


class _AsShipped(Ours):
    settings = ""
    more_policy = f"tools:\n  {_TOOL}: {{}}\n"

    def token(self) -> str:
        """A credential of the tool. Raises ContenderError."""
        program = Path(sys.executable).with_name("cloned-proxy")
        minted = subprocess.run(
            [program, "token", _TOOL, "--json", "--workspace", self.policy.parent],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if minted.returncode:
            raise ContenderError(f"no token for {_TOOL}: {minted.stderr[-300:]}")
        return str(json.loads(minted.stdout)["token"])


def _caller(contender: Ours, token: str) -> MakeClient:
    class Caller(Tunnel):
        first = contender.first_bytes(0)

        def start(self) -> None:
            target = f"{HOST}:{contender.ports[1]}"
            self.transport.write(connect_head(target, f"X-Cloned-Tool-Token: {token}\r\n"))

    return Caller


async def _asked(contender: Ours, make: MakeClient) -> Load:
    load = Load(contender.address, time.monotonic() + _SECONDS, _NO_LIMIT)
    await drive(load, make, _CLIENTS)
    return load


async def _flood(port: int) -> None:
    """Until it is ended."""
    await drive(Load(("127.0.0.1", port), time.monotonic() + 600, _NO_LIMIT), Denied, _FLOOD_CLIENTS)


async def measure(rounds: int) -> dict[str, float]:
    """How many allowed calls were made beside a loop of denied ones, how many failed, and the median of their times."""
    alone: list[float] = []
    beside: list[float] = []
    calls = failed = 0
    with tempfile.TemporaryDirectory() as directory, UpstreamProcess(Path(directory)) as ports:
        for number in range(rounds):
            contender = _AsShipped(Path(directory) / f"run{number}", ports, 10)
            contender.start()
            try:
                make = _caller(contender, contender.token())
                await _asked(contender, make)
                alone.append(median((await _asked(contender, make)).latencies))
                flood = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "bench.neighbour", "--flood", str(contender.port)
                )
                try:
                    await asyncio.sleep(1.0)
                    load = await _asked(contender, make)
                finally:
                    flood.kill()
                    await flood.wait()
            finally:
                contender.stop()
            beside.append(median(load.latencies))
            calls += load.count
            failed += load.errors
    before, then = median(alone) * 1e3, median(beside) * 1e3
    return {
        "neighbour_calls": calls,
        "neighbour_failed": failed,
        "neighbour_alone_ms": round(before, 2),
        "neighbour_beside_ms": round(then, 2),
        "neighbour_ratio": round(then / before, 2) if before else 0.0,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.neighbour", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flood", type=int, default=0, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.flood:
        uvloop.run(_flood(chosen.flood))
        return 0
    sys.stdout.write(json.dumps(uvloop.run(measure(chosen.rounds)), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
