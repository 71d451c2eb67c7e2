"""The escape probe as a canary inside `serve`: at an interval, in a process of its own, its outcome in the metrics."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

import structlog

from cloned_proxy.proxy.server import Server

_log = structlog.get_logger(__name__)

SHORTEST: Final = 30.0
"""Seconds: a probe takes about five of them, and starts containers."""
_LONGEST_PROBE: Final = 120.0
_PROGRAM: Final = "from cloned_proxy.cli import main; main()"


async def probe_forever(server: Server, interval: float) -> None:
    """Probes each `interval` seconds until cancelled. A probe that cannot be run counts as one that failed."""
    while True:
        sealed, said = await _probe()
        server.probed(sealed=sealed)
        if not sealed:
            _log.error("the escape probe failed; `cloned-proxy verify` shows each attempt", said=said)
        await asyncio.sleep(max(interval, SHORTEST))


async def _probe() -> tuple[bool, str]:
    # A process of its own: what it does with namespaces and containers must not be able to hurt this one.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, "verify"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        async with asyncio.timeout(_LONGEST_PROBE):
            output, _ = await process.communicate()
    except TimeoutError:
        return False, f"no answer within {_LONGEST_PROBE:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = output.decode(errors="replace").strip().splitlines() or ["no output"]
    return process.returncode == 0, lines[-1]
