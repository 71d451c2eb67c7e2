"""What all bodies that are held take in memory together, and whose turn it is to hold more of it.

Nothing is refused for it: who has to wait reads nothing, and the other side notices through TCP or HTTP/2 flow control.
"""

from __future__ import annotations

import asyncio
from typing import Final

MOST_HELD: Final = 128 * 2**20
"""Bytes in one process: of bodies as they come in and as they go out. The oldest body of each caller is let past it."""


class HeldBodies:
    """One for each process."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self._most = most
        self._held: dict[object, dict[HeldBody, int]] = {}
        """The bodies that wait for their turn, by caller, the oldest first."""
        self._total = 0
        self._changed = asyncio.Event()

    @property
    def total(self) -> int:
        return self._total

    def body(self, caller: object) -> HeldBody:
        """A body of this caller, of which nothing is held yet."""
        return HeldBody(self, caller)

    def note(self, body: HeldBody, size: int) -> None:
        mine = self._held.setdefault(body.caller, {})
        before = mine.get(body, 0)
        if size:
            mine[body] = size
        else:
            mine.pop(body, None)
            if not mine:
                del self._held[body.caller]
        self._total += size - before
        if size < before:
            self._changed.set()
            self._changed = asyncio.Event()

    def may_grow(self, body: HeldBody) -> bool:
        """Each caller's oldest body may: else all could wait for each other, and one caller could stop the rest."""
        oldest = next(iter(self._held.get(body.caller, ())), body)
        return self._total < self._most or oldest is body

    async def room(self, body: HeldBody) -> None:
        while not self.may_grow(body):
            await self._changed.wait()


class HeldBody:
    """One body."""

    def __init__(self, bodies: HeldBodies, caller: object) -> None:
        self._bodies = bodies
        self.caller: Final = caller

    def note(self, size: int) -> None:
        """Says how many bytes of the body are held now; 0 gives its place back."""
        self._bodies.note(self, size)

    @property
    def may_grow(self) -> bool:
        return self._bodies.may_grow(self)

    async def room(self) -> None:
        """Waits until more of it may be held."""
        await self._bodies.room(self)
