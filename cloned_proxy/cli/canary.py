"""The escape probe as a canary inside `serve`: at an interval, in a process of its own, its outcome in the metrics."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any, Final

import structlog

from cloned_proxy.proxy.server import Server
from cloned_proxy.telemetry.events import ProbeEvent

_log = structlog.get_logger(__name__)

SHORTEST: Final = 30.0
"""Seconds: a probe takes about five of them, and starts containers."""
_LONGEST_PROBE: Final = 120.0


async def probe_forever(server: Server, interval: float) -> None:
    """Probes each `interval` seconds until cancelled. A probe that cannot be run counts as one that failed."""
    while True:
        event = await _probe()
        server.probed(event)
        if not event.sealed:
            said = "; ".join(event.failures)
            _log.error("the escape probe failed; `cloned-proxy verify` shows each attempt", said=said)
        await asyncio.sleep(max(interval, SHORTEST))


async def _probe() -> ProbeEvent:
    began = time.monotonic()
    # A process of its own: what it does with namespaces and containers must not be able to hurt this one.
    # -P: what lies in the directory in which somebody typed `serve` is not ours to import.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cloned_proxy", "verify", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        async with asyncio.timeout(_LONGEST_PROBE):
            output, said = await process.communicate()
    except TimeoutError:
        return _blind(began, f"no answer within {_LONGEST_PROBE:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return probe_event(json.loads(output), sealed=process.returncode == 0)
    except (ValueError, KeyError, TypeError):
        return _blind(began, (said.decode(errors="replace").strip().splitlines() or ["no output"])[-1])


def probe_event(report: dict[str, Any], *, sealed: bool) -> ProbeEvent:
    """What `verify --json` said, for the record. Raises KeyError or TypeError for anything else."""
    lines = [*report["attempts"], *report["controls"]]
    return ProbeEvent(
        at=time.time(),
        sealed=sealed and report["sealed"] is True,
        attempts=len(report["attempts"]),
        controls=len(report["controls"]),
        seconds=report["seconds"],
        failures=tuple(f"{line['what']}: {line['result']}" for line in lines if line["result"] != "ok"),
    )


def _blind(began: float, why: str) -> ProbeEvent:
    return ProbeEvent(time.time(), False, 0, 0, round(time.monotonic() - began, 2), (why,))
