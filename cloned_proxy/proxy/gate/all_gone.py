"""Whether no client is connected any more, and the wait for that while a gate drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final


class AllGone(asyncio.Event):
    """Set while the gate has no client."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        """`idle` tells whether no client is connected."""
        super().__init__()
        self._idle: Final = idle
        self.set()

    def look(self) -> None:
        """Called whenever the last client may have gone."""
        if self._idle():
            self.set()
        else:
            self.clear()

    async def within(self, seconds: float) -> bool:
        """Waits so long at most; False when somebody is still connected then."""
        self.look()
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            return False
        return True
