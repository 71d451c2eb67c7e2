"""When the source last said that the policy in force is the newest, and whether that is too long ago."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloned_proxy.fleet.signed_policy.kept import Shelf

_NOTES: Final = 20
"""So many notes of when the source was heard are written in the time of `max_staleness`."""


class LastHeard:
    """When the source was heard, by the time since boot; notes on the disk are for a restart without the source."""

    def __init__(
        self, shelf: Shelf, longest: float | None, *, clock: Callable[[], float], uptime: Callable[[], float]
    ) -> None:
        """`longest` is `max_staleness` in seconds; None: it never is too long ago."""
        self._shelf: Final = shelf
        self._longest: Final = longest
        self._clock = clock
        self._uptime = uptime
        self._at = float("-inf")
        self._noted_at = float("-inf")

    def resume(self) -> None:
        """Goes on from the notes of the run before."""
        self._at = self._uptime() - self._shelf.unheard_seconds(now=self._clock(), up=self._uptime())

    def now(self) -> None:
        """Notes that the source was heard this moment."""
        self._at = self._uptime()

    @property
    def age(self) -> float:
        """Seconds; infinite: it was never heard."""
        return self._uptime() - self._at

    def is_too_long_ago(self) -> bool:
        return self._longest is not None and self.age > self._longest

    async def note(self) -> None:
        """Writes it down, where the last note is old enough. Raises StoreError."""
        every = (self._longest or float("inf")) / _NOTES
        if self._at - self._noted_at >= every:
            self._noted_at = self._at
            # By the clock of the moment at which it was heard.
            at = self._clock() - self.age
            await asyncio.to_thread(self._shelf.heard, now=at, up=self._at)
