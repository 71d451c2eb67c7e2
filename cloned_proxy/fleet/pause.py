"""What is refused costs a small part of the time: whoever offers it again and again does not slow down traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloned_proxy.store.deadline import uptime

_TIMES: Final = 20
"""So much longer than the looking took: a twentieth of the time is the most that is spent on it."""
_LONGEST: Final = 30.0


class Pause:
    """Of one source, after something that it offered was refused."""

    def __init__(self, clock: Callable[[], float] = uptime) -> None:
        self.now: Final = clock
        self._until = float("-inf")

    @property
    def lasts(self) -> bool:
        return self.now() < self._until

    def after(self, began: float) -> None:
        """Begins, for a look that began then."""
        now = self.now()
        self._until = now + min(_TIMES * (now - began), _LONGEST)

    async def over(self) -> None:
        """Returns at its end."""
        await asyncio.sleep(max(0.0, self._until - self.now()))
