"""One deadline after another for one connection, with one timer of the loop: most never ring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings once for what it was set to last."""

    __slots__ = ("_due", "_loop", "_timer", "deadline")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        """When it rings, as it was set last, on the clock of the loop."""
        self._due: Callable[[], None] | None = None

    def set(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` once, unless it is set anew or put off before."""
        self._due = then
        self.deadline = deadline = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._ring)

    def put_off(self) -> None:
        """Calls nothing until it is set anew; the timer stays, for that."""
        self._due = None

    def stop(self) -> None:
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        due, self._timer = self._due, None
        if due is None:
            return
        if self._loop.time() < self.deadline:
            self._timer = self._loop.call_at(self.deadline, self._ring)
            return
        self._due = None
        due()
