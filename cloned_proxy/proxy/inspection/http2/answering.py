"""What the client of one stream is told by the proxy itself, and how its stream ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from cloned_proxy.proxy.answers import Answer
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.inspection.http2 import grpc, heads
from cloned_proxy.proxy.inspection.http2.endpoint import Window
from cloned_proxy.proxy.inspection.http2.pipe import BrokenBodyError
from cloned_proxy.proxy.linger import LINGER_BYTES, LINGER_SECONDS

if TYPE_CHECKING:
    from cloned_proxy.proxy.inspection.http2.front import Front


class Answering:
    """The client's side of a request."""

    __slots__ = ("_answered", "_began", "_front", "_grpc", "_head", "id", "window")

    def __init__(self, front: Front, number: int, head: Head) -> None:
        self._front = front
        self._head = head
        self._grpc = grpc.speaks_grpc(head)
        self._began = False
        """Whether a part of the response has been sent."""
        self._answered = False
        """Whether all of it has."""
        self.id: Final = number
        self.window: Final = Window(front, number)
        """For the body of the request."""

    @property
    def is_short(self) -> bool:
        """Whether less has come of the request's body than its head says."""
        length = self._head.content_length
        return length is not None and self.window.pipe.fed < length

    async def _say(self, answer: Answer) -> None:
        """In the proxy's own name, where nothing of a response has been sent; otherwise it must not look whole."""
        if self._answered:
            return
        try:
            async with asyncio.timeout(self._front.parts.settings.head_timeout):
                if self._grpc:
                    self._say_grpc(answer)
                elif self._began:
                    self._reset(ErrorCodes.INTERNAL_ERROR)
                else:
                    await self._say_http(answer)
        except (H2Error, OSError, TimeoutError):
            self._reset(ErrorCodes.CANCEL)

    def _say_grpc(self, answer: Answer) -> None:
        block = grpc.status_of(answer) if self._began else grpc.trailers_only(answer)
        self._front.h2.send_headers(self.id, block, end_stream=True)
        self._front.flush_soon()
        self._answered = True

    async def _say_http(self, answer: Answer) -> None:
        self._began = True
        with_body = self._head.method != "HEAD"
        self._front.h2.send_headers(self.id, heads.answer_block(answer), end_stream=not with_body)
        if with_body:
            await self._front.send_data(self.id, answer.body, end=True)
        self._front.flush_soon()
        self._answered = True

    async def _let_finish(self) -> None:
        """Takes what is left of an answered request's body, for a moment (RFC 9113, section 8.1).

        Told at once that the rest is not wanted, curl forgets the answer that it has.
        """
        if not self._answered:
            return
        pipe, left = self.window.pipe, LINGER_BYTES
        with contextlib.suppress(TimeoutError, BrokenBodyError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0 and not pipe.ended and (piece := await pipe.take()) is not None:
                    left -= len(piece)
        if not pipe.ended:
            self._front.reset(self.id, ErrorCodes.NO_ERROR)

    def _reset(self, code: ErrorCodes) -> None:
        if not self._answered:
            self._front.reset(self.id, code)
        elif not self.window.pipe.ended:
            self._front.reset(self.id, ErrorCodes.NO_ERROR)
