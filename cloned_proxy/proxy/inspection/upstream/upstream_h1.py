"""An upstream that speaks HTTP/1.1: one exchange at a time, read as strictly as everywhere else."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

from OpenSSL import SSL

from cloned_proxy.proxy.http1.outgoing import repeatable
from cloned_proxy.proxy.inspection.connections import bounds, heads
from cloned_proxy.proxy.inspection.connections.pipe import Pipe, Trailers
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from cloned_proxy.proxy.inspection.examining.examiners import ResponseSeen
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamLostError, UpstreamRequest
from cloned_proxy.proxy.wire.body import (
    BodyError,
    BodyReader,
    Buffer,
    ChunkedBody,
    OversizeError,
    SizedBody,
    UnsizedBody,
    take_head,
)
from cloned_proxy.proxy.wire.response import (
    FIRST_FINAL,
    SWITCHING_PROTOCOLS,
    ResponseError,
    ResponseHead,
    parse_response,
)
from cloned_proxy.store.settings.config import ProxySettings

_CONTINUE: Final = 100
_MAX_INTERIM: Final = 16
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_SETTINGS: Final = re.compile(rb"\0..\x04\0\0\0\0\0", re.DOTALL)
"""The head of the frame that every server of HTTP/2 begins with (RFC 9113, sections 3.4 and 6.5)."""


class UpstreamH1:
    def __init__(self, tls: TlsStream, settings: ProxySettings, *, speaks_http2: Callable[[], None]) -> None:
        """`speaks_http2` is told of a server that has agreed to no version in the handshake and begins in HTTP/2."""
        self.tls: Final = tls
        self._settings: Final = settings
        self._speaks_http2: Final = speaks_http2
        self._exchange: ExchangeH1 | None = None
        self._buffer = Buffer()
        self._used_at = 0.0
        """When the last exchange has ended; 0.0 before there was one."""
        self._closed = False
        self._is_http2 = False
        """Whether the server speaks HTTP/2. It has read no request then: what it got does not begin as HTTP/2 does."""
        self._over: Final = asyncio.Event()

    @property
    def free(self) -> bool:
        return not self._closed and self._exchange is None

    def idle_for(self) -> float:
        return time.monotonic() - self._used_at if self._used_at else 0.0

    def open(self, outgoing: UpstreamRequest) -> ExchangeH1:
        """Sends the head. Raises UpstreamLostError."""
        if self._closed:
            raise UpstreamLostError("the connection was closed", unprocessed=True)
        # RFC 9112, section 9.3.1: a kept connection may have been closed before the request meets it.
        exchange = ExchangeH1(self, outgoing, again=bool(self._used_at) and repeatable(outgoing.head))
        try:
            self.tls.write(_encode(outgoing, chunked=exchange.chunked))
        except SSL.Error:
            self.abort()
            raise UpstreamLostError("the connection broke", unprocessed=True) from None
        self._exchange = exchange
        return exchange

    def abort(self) -> None:
        self._closed = True
        self.tls.abort()

    def close(self) -> None:
        """In order: what has been written still goes out."""
        self._closed = True
        self.tls.close()

    def done(self, exchange: ExchangeH1) -> None:
        """What is not whole ends with the connection."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self._used_at = time.monotonic()
        exchange.body.break_off(UpstreamLostError("nobody wants the rest"))
        if exchange.switched:
            self.close()
        elif not (exchange.asked and exchange.body.ended) or self._buffer:
            self.abort()
        elif not exchange.keep:
            self.close()

    async def lost(self) -> None:
        await self._over.wait()

    async def run(self) -> None:
        problem = "the upstream closed its connection"
        try:
            while not self._closed and (data := await self.tls.read()):
                self._buffer += data
                self._check_version()
                await self._advance()
        except (ResponseError, BodyError, OversizeError) as error:
            problem = str(error)
        except (OSError, SSL.Error):
            problem = "the connection broke"
        finally:
            self._closed = True
            self._ended(problem)
            self._over.set()
            self.tls.close()

    def _check_version(self) -> None:
        begins = not self._used_at and (self._exchange is None or self._exchange.untouched)
        if begins and not self.tls.protocol and self._buffer.starts_with(_SETTINGS):
            self._is_http2 = True
            self._speaks_http2()
            raise ResponseError("the server speaks HTTP/2, which it was not asked for")

    async def _advance(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.body.ended:
            raise ResponseError("bytes that nothing was asked for")
        if exchange.framing is None:
            head = self._find_head(exchange)
            if head is None:
                return
            exchange.begin(head)
        framing, body = exchange.framing or SizedBody(0), exchange.body
        while piece := framing.read(self._buffer):
            body.feed(piece)
            await body.room(bounds.STREAM_WINDOW)
        if piece is None:
            body.end(heads.trailer_fields(framing.trailers) if isinstance(framing, ChunkedBody) else ())

    def _find_head(self, exchange: ExchangeH1) -> ResponseHead | None:
        limit, most = self._settings.max_head_bytes, self._settings.max_head_fields
        while (data := take_head(self._buffer, limit)) is not None:
            head = parse_response(data, max_fields=most)
            if head.status >= FIRST_FINAL:
                return head
            if head.status == SWITCHING_PROTOCOLS and head.upgrade == b"websocket" and exchange.outgoing.upgrades:
                return head
            exchange.interim += 1
            if head.status == SWITCHING_PROTOCOLS or exchange.interim > _MAX_INTERIM:
                raise ResponseError("too many interim responses, or an upgrade that nobody asked for")
            if head.status == _CONTINUE:
                exchange.outgoing.interim()
        return None

    def _ended(self, problem: str) -> None:
        exchange = self._exchange
        if exchange is None or exchange.body.ended:
            return
        if exchange.switched or (isinstance(exchange.framing, UnsizedBody) and self.tls.closed_cleanly):
            exchange.body.end()  # RFC 9112, section 9.8: whole only behind a close_notify
        else:
            silent = exchange.untouched and not self._buffer and exchange.again
            exchange.fail(UpstreamLostError(problem, unprocessed=silent or self._is_http2))


class ExchangeH1:
    __slots__ = ("_connection", "_due", "again", "asked", "body", "chunked", "framing", "head", "interim", "keep",
                 "outgoing", "switched")  # fmt: skip

    def __init__(self, connection: UpstreamH1, outgoing: UpstreamRequest, *, again: bool) -> None:
        self._connection = connection
        self.again: Final = again
        """Whether it may go to another connection, where nothing has come back on this one."""
        self.outgoing: Final = outgoing
        self.chunked: Final = not outgoing.ended and not any(name == b"content-length" for name, _ in outgoing.fields)
        self._due = 0 if self.chunked or outgoing.ended else outgoing.head.content_length or 0
        """Bytes of a body with a length that have not been sent."""
        self.body = Pipe()
        self.head: asyncio.Future[ResponseSeen] = asyncio.get_running_loop().create_future()
        self.framing: BodyReader | None = None
        """How the body of the response is read, once its head is there."""
        self.interim = 0
        self.keep = False
        self.asked = outgoing.ended
        """Whether the request has been sent to its end."""
        self.switched = False
        """Whether the bytes of both sides are those of a WebSocket by now."""

    @property
    def untouched(self) -> bool:
        """Whether nothing has been answered yet."""
        return self.framing is None and not self.interim

    def begin(self, head: ResponseHead) -> None:
        method = self.outgoing.head.method
        self.switched = head.status == SWITCHING_PROTOCOLS
        body = UnsizedBody() if self.switched else head.body(method)
        self.framing = body or SizedBody(0)
        # Chunks announced and none allowed (an answer to HEAD): whether some follow is anybody's guess.
        self.keep = head.keep_alive and not isinstance(body, UnsizedBody) and not (head.chunked and body is None)
        if not self.head.done():
            self.head.set_result(heads.seen_of(head, method=method))

    async def send(self, piece: bytes) -> None:
        if self.switched:
            await self._write(piece)
            return
        if not self.chunked and len(piece) > self._due:
            raise UpstreamLostError("a body that is longer than it says")  # its rest would be a request of its own
        self._due -= 0 if self.chunked else len(piece)
        await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)

    async def end(self, trailers: Trailers) -> None:  # noqa: ARG002  no receiver has to understand them
        if self.chunked:
            await self._write(b"0\r\n\r\n")
        self.asked = not self._due  # else the server would take what is missing from the next request

    async def _write(self, data: bytes) -> None:
        try:
            self._connection.tls.write(data)
            await self._connection.tls.drain()
        except (SSL.Error, OSError):
            raise UpstreamLostError("the connection broke") from None

    async def lost(self) -> None:
        await self._connection.lost()

    def fail(self, error: UpstreamLostError) -> None:
        if self.body.ended:
            return  # the response is whole, whatever became of the request
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()  # nobody may be waiting yet
        self.body.break_off(error)

    def close(self) -> None:
        self._connection.done(self)


def _encode(outgoing: UpstreamRequest, *, chunked: bool) -> bytes:
    head, fields = outgoing.head, outgoing.fields
    lines = [b"%b %b HTTP/1.1" % (head.method.encode("ascii"), head.path.encode("ascii"))]
    cookies = [value for name, value in fields if name == b"cookie"]
    if len(cookies) > 1:  # RFC 9113, section 8.2.3
        fields = [*(field for field in fields if field[0] != b"cookie"), (b"cookie", b"; ".join(cookies))]
    lines += [b"%b: %b" % field for field in fields if field[0] != b"transfer-encoding"]
    if outgoing.ended and head.method in _WITH_BODY:
        lines.append(b"content-length: 0")  # RFC 9110, section 8.6: else some servers wait for a body
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    if outgoing.trailers:
        lines.append(b"te: trailers\r\nconnection: te")
    return b"\r\n".join((*lines, b"", b""))
