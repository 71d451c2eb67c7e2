"""Denials as they are shown while something runs: each call once, no flood, and how many were left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

_MOST_KNOWN: Final = 2000
"""Calls that are remembered, the latest ones."""


class Denials:
    """What is shown of a stream of denials: at most `most` within `seconds`."""

    def __init__(
        self,
        show: Callable[[dict[str, Any]], None],
        more: Callable[[int], None],
        *,
        most: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`show` gets the body of an entry of the log; `more` how many were left out. `clock` is monotonic."""
        self._show = show
        self._more = more
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._known: dict[tuple[object, ...], None] = {}
        self._window = clock()
        self._shown = 0
        self._left_out = 0

    def denied(self, body: dict[str, Any]) -> None:
        """Shows it, unless the same tool was refused the same host and port before, or too much is shown already."""
        call = (body["tool"], body["host"], body["port"])
        again = call in self._known
        self._known.pop(call, None)
        self._known[call] = None
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        if again:
            return
        self.tick()
        if self._shown >= self._most:
            self._left_out += 1
            return
        self._shown += 1
        self._show(body)

    def tick(self) -> None:
        """Ends a window that is over."""
        if self._clock() - self._window >= self._seconds:
            self.end()

    def end(self) -> None:
        """Ends the window now: says what was left out."""
        left, self._left_out = self._left_out, 0
        self._window, self._shown = self._clock(), 0
        if left:
            self._more(left)
