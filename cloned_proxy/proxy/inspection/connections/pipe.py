"""One body on its way through the proxy: bounded, in order, with one writer and one reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

_SMALL: Final = 4096
"""Bytes. Less is joined with what waits before it: a frame of one byte must not cost what a large one does."""

type Trailers = Sequence[tuple[bytes, bytes]]


class BrokenBodyError(Exception):
    """The sender has broken the body off. The message is for the log."""


class Pipe:
    """`feed` never waits: the bound is what the sender was told that it may send (`credit`), or `room`."""

    __slots__ = (
        "_broken", "_credit", "_ended", "_loop", "_pieces", "_taker", "_waiter", "fed", "size", "trailers",
    )  # fmt: skip

    def __init__(self, credit: Callable[[int], None] | None = None) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._credit = credit
        """Is called with the number of bytes that have been taken, flow-controlled padding included."""
        self._pieces: deque[tuple[bytes, int]] = deque()
        self._ended = False
        self._broken: Exception | None = None
        self._taker: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.fed = 0
        """Bytes that have come in all."""
        self.size = 0
        """Bytes that nobody has taken yet."""
        self.trailers: Trailers = ()

    @property
    def ended(self) -> bool:
        """Whether all of it has come; it may not have been taken."""
        return self._ended

    @property
    def exhausted(self) -> bool:
        """Whether all of it has come and been taken."""
        return self._ended and not self._pieces

    # The sender's side.

    def feed(self, piece: bytes, cost: int = 0) -> None:
        """`cost` is what the piece takes of the sender's window, where that is more than its length."""
        if self._broken is not None:
            return
        cost = cost or len(piece)
        self.fed += len(piece)
        self.size += len(piece)
        if self._pieces and len(self._pieces[-1][0]) + len(piece) <= _SMALL:
            before, paid = self._pieces.pop()
            piece, cost = before + piece, paid + cost
        self._pieces.append((piece, cost))
        self._wake()

    def end(self, trailers: Trailers = ()) -> None:
        self._ended = True
        self.trailers = trailers
        self._wake()

    def break_off(self, error: Exception) -> None:
        """What has come is dropped: a reader must not take a part for the whole."""
        if self._broken is None and not self._ended:
            self._broken = error
            self._pieces.clear()
            self.size = 0
            self._wake()
            self._make_room()

    async def room(self, limit: int) -> None:
        """Waits until less than `limit` bytes are in it."""
        while self.size >= limit and self._broken is None:
            self._waiter = self._loop.create_future()
            await self._waiter

    # The reader's side.

    async def take(self) -> bytes | None:
        """The next piece, None at the end. Raises what it was broken off with."""
        while not self._pieces:
            if self._broken is not None:
                raise self._broken
            if self._ended:
                return None
            self._taker = self._loop.create_future()
            await self._taker
        if self._broken is not None:
            raise self._broken
        return self._next()

    def take_now(self) -> bytes | None:
        """All that is there already as one piece; None for nothing."""
        if not self._pieces:
            return None
        pieces = []
        while self._pieces:
            pieces.append(self._next())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next(self) -> bytes:
        piece, cost = self._pieces.popleft()
        self.size -= len(piece)
        if self._credit is not None and cost:
            self._credit(cost)
        self._make_room()
        return piece

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    def _make_room(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
