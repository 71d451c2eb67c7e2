"""A request of an HTTP/2 client: what is written on its stream, and how that ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, ClassVar, Final

from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.inspection.connections import heads
from cloned_proxy.proxy.inspection.connections.endpoint import StreamWindow
from cloned_proxy.proxy.inspection.connections.pipe import BrokenBodyError, Trailers
from cloned_proxy.proxy.inspection.examining.examiners import ResponseSeen
from cloned_proxy.proxy.inspection.http2 import grpc
from cloned_proxy.proxy.inspection.requests.stream import Stream
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamExchange
from cloned_proxy.proxy.transport.linger import LINGER_BYTES, LINGER_SECONDS
from cloned_proxy.proxy.wire.head import Head

if TYPE_CHECKING:
    from cloned_proxy.proxy.inspection.http2.front import Front


class Http2Stream(Stream):
    """The client's side of it."""

    __slots__ = ("_front", "_grpc", "id", "window")

    passes_trailers: ClassVar[bool] = True

    def __init__(self, front: Front, number: int, head: Head) -> None:
        self.window: Final = StreamWindow(front, number)
        super().__init__(front, head, self.window.pipe)
        self._front = front
        self._grpc = grpc.speaks_grpc(head)
        self.id: Final = number

    @property
    def is_short(self) -> bool:
        """Whether less has come of the request's body than its head says."""
        length = self._head.content_length
        return length is not None and self.pipe.fed < length

    async def _say(self, answer: Answer) -> None:
        """In the proxy's own name, where nothing of a response has been sent; otherwise it must not look whole."""
        if self._answered:
            return
        try:
            async with asyncio.timeout(self._front.services.settings.head_timeout):
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
        pipe, left = self.pipe, LINGER_BYTES
        with contextlib.suppress(TimeoutError, BrokenBodyError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0 and not pipe.ended and (piece := await pipe.take()) is not None:
                    left -= len(piece)
        if not pipe.ended:
            self._front.reset(self.id, ErrorCodes.NO_ERROR)

    def _break_off(self) -> None:
        self._reset(ErrorCodes.CANCEL)

    def _leave(self) -> None:
        self.window.close()
        self._front.forget(self)

    def _reset(self, code: ErrorCodes) -> None:
        if not self._answered:
            self._front.reset(self.id, code)
        elif not self.pipe.ended:
            self._front.reset(self.id, ErrorCodes.NO_ERROR)

    def _continue(self) -> None:
        with contextlib.suppress(H2Error):
            self._front.h2.send_headers(self.id, [(b":status", b"100")])
            self._front.flush_soon()

    def _send_head(self, seen: ResponseSeen, length: int | None, *, end: bool = False) -> None:
        self._began = True
        self.last_byte = time.monotonic()
        self._front.h2.send_headers(self.id, heads.response_block(seen, length), end_stream=end)
        self._front.flush_soon()

    async def _send_data(self, data: bytes, *, end: bool = False) -> None:
        await self._front.send_data(self.id, data, end=end)

    async def _send_end(self, trailers: Trailers) -> None:
        if trailers:
            self._front.h2.send_headers(self.id, list(trailers), end_stream=True)
            self._front.flush_soon()
        else:
            await self._front.send_data(self.id, b"", end=True)

    async def _see_upload_off(self, sending: asyncio.Task[None], exchange: UpstreamExchange) -> None:
        """The client is told that the rest is not wanted (`_let_finish`)."""

    def revoke(self, reason: str) -> None:
        """What the policy in force no longer lets pass. A gRPC client is told why; any other sees a broken stream."""
        if self._grpc and not self._answered and not self.cause:
            with contextlib.suppress(H2Error):
                block = list(grpc.revoked(reason))
                if not self._began:
                    block = [(b":status", b"200"), (b"content-type", b"application/grpc"), *block]
                self._front.h2.send_headers(self.id, block, end_stream=True)
                self._answered = True
        self.cancel(f"revoked:{reason}")
