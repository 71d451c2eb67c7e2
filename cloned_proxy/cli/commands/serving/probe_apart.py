"""The escape probe in a process of its own: what it does with namespaces and containers must not hurt `serve`.

`main` is that process; `probe_apart` starts it, hears which stage it is at, and makes an event of what it found.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from cloned_proxy.cli.commands.sandbox.probe_report import probe_event
from cloned_proxy.proxy.serving.beside import end_process, python_module
from cloned_proxy.runner.docker.engine_address import engine_listens
from cloned_proxy.telemetry.events import ProbeEvent

_LONGEST_PROBE: Final = 120.0
_STOP_SECONDS: Final = 10.0
"""For the process to remove its containers once it was told to end."""


def main() -> None:
    """Probes once: stages on stderr, a line each; the report as JSON on stdout. What went wrong is the last line."""
    from cloned_proxy.cli.show.errors import FAILED, say
    from cloned_proxy.cli.show.output import put_json
    from cloned_proxy.cli.terminal.interruption import interruptible
    from cloned_proxy.runner.probe.run import run_probe
    from cloned_proxy.runner.values.errors import SandboxError

    def tell(stage: str) -> None:
        say(stage)
        sys.stderr.flush()

    try:
        with interruptible():
            report = run_probe(tell)
    except SandboxError as error:
        say(str(error))
        sys.exit(FAILED)
    put_json(report.as_json(), one_line=True)


class ProbeApart:
    """Implements `proxy.serving.probing.Probe`."""

    def possible(self) -> bool:
        return engine_listens()

    async def run(self, actor: str, tell: Callable[[str], None]) -> ProbeEvent:
        return await probe_apart(actor, tell)


async def probe_apart(actor: str, tell: Callable[[str], None]) -> ProbeEvent:
    """One probe; `tell` hears each stage. A probe that cannot be run is one that failed, without attempts."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(_LONGEST_PROBE):
            output, said = await _spoken(tell)
    except TimeoutError:
        return _blind(began, actor, f"no answer within {_LONGEST_PROBE:.0f} s")
    except (OSError, ValueError) as error:  # no process could be started, or it said what is no line
        return _blind(began, actor, str(error))
    try:
        return probe_event(json.loads(output), actor)
    except (ValueError, KeyError, TypeError):
        return _blind(began, actor, said or "no output")


async def _spoken(tell: Callable[[str], None]) -> tuple[bytes, str]:
    """What the process wrote on stdout, and the last line of its stderr. Raises OSError or ValueError."""
    process = await asyncio.create_subprocess_exec(
        *python_module("cloned_proxy.cli.commands.serving.probe_apart"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        if process.stdout is None or process.stderr is None:
            raise ValueError("the process has no pipes")
        output, said = await asyncio.gather(process.stdout.read(), _last_line(process.stderr, tell))
        await process.wait()
    finally:
        if process.returncode is None:
            await end_process(process, _STOP_SECONDS)
    return output, said


async def _last_line(stream: asyncio.StreamReader, tell: Callable[[str], None]) -> str:
    last = ""
    async for line in stream:
        last = line.decode(errors="replace").strip() or last
        tell(last)
    return last


def _blind(began: float, actor: str, why: str) -> ProbeEvent:
    return ProbeEvent(time.time(), False, 0, 0, round(time.monotonic() - began, 2), (why,), actor)


if __name__ == "__main__":
    main()
