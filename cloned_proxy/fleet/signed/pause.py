"""What is refused costs a small part of the time: whoever offers it again and again does not slow down traffic."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from cloned_proxy.store.leases.deadline import uptime

_TIMES: Final = 20
"""So much longer than the looking took: a twentieth of the time is the most that is spent on it."""
_LONGEST: Final = 30.0


def again_seconds() -> float:
    """Until a reading that failed is tried again: not by all replicas at the same moment."""
    return random.uniform(0.2, 1.0)  # noqa: S311  no secret


class Pause:
    """For how long one source is not read after something that it offered was refused."""

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
