"""The escape probe as the serving process runs it: one at a time, whoever asks, and its outcome on record.

What a probe does stands outside of the proxy (`cli.commands.serving.probe_apart`). Who asks for one, the control
process for example, decides nothing about it: there is nothing to choose, and a second one beside it
or right behind it is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog

from cloned_proxy.telemetry.events import ProbeEvent

_log = structlog.get_logger(__name__)

PAUSE: Final = 5.0
"""Seconds between two that were asked for: each starts containers."""


class IsolationProbe(Protocol):
    """How a probe is made."""

    def run(self, actor: str, tell: Callable[[str], None]) -> Coroutine[Any, Any, ProbeEvent]:
        """One probe. `tell` hears which stage it is at."""

    def possible(self) -> bool:
        """Whether there is an engine to probe with. May block for a moment."""


class Prober:
    """One for each serving process that takes sandboxes, on its event loop."""

    def __init__(self, probe: IsolationProbe, done: Callable[[ProbeEvent], None]) -> None:
        self._probe = probe
        self._done = done
        self._task: asyncio.Task[None] | None = None
        self._stage = ""
        self._ended = float("-inf")

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def start(self, actor: str) -> str:
        """Begins one for a person. "" when it has begun, else why not."""
        if not await asyncio.to_thread(self._probe.possible):
            return "no container engine answers: start it, or install one (`cloned-proxy doctor`)"
        if self.running:
            return "a probe is under way already"
        if time.monotonic() - self._ended < PAUSE:
            return "a probe has just ended; look at its outcome first"
        self._begin(actor)
        return ""

    async def probe(self, actor: str) -> None:
        """One probe, or the end of the one that is under way."""
        await asyncio.shield(self._task if self._task is not None and self.running else self._begin(actor))

    async def status(self) -> dict[str, Any]:
        """For JSON: whether one can be made, whether one is under way, and at which stage it is."""
        possible = await asyncio.to_thread(self._probe.possible)
        return {"possible": possible, "running": self.running, "stage": self._stage if self.running else ""}

    async def close(self) -> None:
        """Ends one that is under way; it removes what it had started."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self, actor: str) -> asyncio.Task[None]:
        self._stage = "starting"
        self._task = asyncio.create_task(self._run(actor))
        return self._task

    async def _run(self, actor: str) -> None:
        try:
            event = await self._probe.run(actor, self._tell)
        finally:
            self._ended = time.monotonic()
        self._done(event)
        if not event.sealed:
            said = "; ".join(event.failures)
            _log.error("the escape probe failed; `cloned-proxy verify` shows each attempt", said=said)

    def _tell(self, stage: str) -> None:
        self._stage = stage
