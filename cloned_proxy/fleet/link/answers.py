"""Answers of the store, bounded: whatever it sends, this side keeps no more of it than was expected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from redis._parsers.resp2 import _AsyncRESP2Parser
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import InvalidResponse

MOST_ANSWERED: Final = 1024 * 1024
"""Bytes of one answer, where the caller does not say that it may have more."""
_EACH: Final = 64
"""What every value of an answer counts beside its bytes: about what it takes in memory."""
_DEEPEST: Final = 8

_PIECE: Final = 65_536

_most: ContextVar[int] = ContextVar("most", default=MOST_ANSWERED)
_leaves_out: ContextVar[bool] = ContextVar("leaves_out", default=False)


@contextmanager
def answers_of(most: int) -> Iterator[None]:
    """Inside, each answer may have so many bytes."""
    token = _most.set(most)
    try:
        yield
    finally:
        _most.reset(token)


@contextmanager
def without_what_is_large() -> Iterator[None]:
    """Inside, a value that is too large is `LEFT_OUT` instead of an error: what is pushed, nobody has asked for.

    Whoever may publish on a channel could end every subscription with one message otherwise.
    """
    token = _leaves_out.set(True)
    try:
        yield
    finally:
        _leaves_out.reset(token)


class _LeftOut(bytes):
    __slots__ = ()


LEFT_OUT: Final = _LeftOut()
"""Empty, and told from what was empty by being this very value."""


class AnswerError(InvalidResponse):
    """An answer that is none. The message is this side's, and quotes nothing."""


class LargeAnswerError(AnswerError):
    """An answer about something that is too large there: that one thing cannot be used, and the store is well."""


class BoundedParser(_AsyncRESP2Parser):
    """For one connection, which is over after an AnswerError: something too large, too deep, or no RESP."""

    __slots__ = ("_deep", "_drained", "_left", "_left_out")

    def _clear(self) -> None:
        """Called when an answer was read, and where a connection begins: not where the wait for an answer was over."""
        super()._clear()  # type: ignore[no-untyped-call]  # not typed there
        self._drained = 0

    async def read_response(self, disable_decoding: bool = False) -> Any:
        self._left, self._deep, self._left_out = _most.get(), 0, False
        try:
            return await super().read_response(disable_decoding=disable_decoding)
        except AnswerError:
            raise
        except (InvalidResponse, ValueError, OverflowError) as error:
            # What was read of it is no answer, and what follows is not the next one. The library quotes it.
            raise AnswerError("the store sends what is no answer") from error

    async def _read_response(self, disable_decoding: bool = False) -> Any:
        self._deep += 1
        if self._deep > _DEEPEST:
            raise AnswerError("an answer that is nested too deeply")
        try:
            return await super()._read_response(disable_decoding=disable_decoding)
        finally:
            self._deep -= 1

    async def _read(self, length: int) -> bytes:
        if length < 0:
            raise AnswerError("a length below zero")
        if length > self._left and _leaves_out.get() and not self._left_out:
            await self._drain(length + len(b"\r\n"))
            return LEFT_OUT
        self._spend(length)
        return await super()._read(length)

    async def _drain(self, length: int) -> None:
        """Reads so many bytes and keeps none. Where the wait for it ends first, the next one goes on from there."""
        self._left_out = True
        while self._drained < length:
            piece = await self._stream.read(min(_PIECE, length - self._drained)) if self._stream else b""
            if not piece:
                raise LostConnectionError("the store has closed the connection")
            self._drained += len(piece)

    async def _readline(self) -> bytes:
        line = await super()._readline()
        self._spend(len(line) + _EACH)
        return line

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise LargeAnswerError("what is there is too large: more bytes than an answer may have")
