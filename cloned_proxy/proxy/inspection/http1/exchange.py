"""A request of an HTTP/1.1 client in opened TLS: what is written on its connection, and how that ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.incoming import LAST_CHUNK, chunk
from cloned_proxy.proxy.inspection.connections.pipe import BrokenBodyError, Pipe, Trailers
from cloned_proxy.proxy.inspection.examining.examiners import Admitted, Filters, ResponseSeen
from cloned_proxy.proxy.inspection.requests.stream import Stream
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamExchange, UpstreamLostError, UpstreamRequest
from cloned_proxy.proxy.secrets.frames import EchoGuard
from cloned_proxy.proxy.transport.relay_guard import RelayGuard, TurnedAwayError
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.proxy.wire.response import SWITCHING_PROTOCOLS

if TYPE_CHECKING:
    from cloned_proxy.proxy.inspection.http1.connection import InspectedConnection

BACKLOG: Final = 65_536
"""Bytes of a body that waits for its upstream, or of pipelined requests; at more the client is not read."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_CONTENT: Final = 204
_PIECE: Final = 65_536
"""Bytes that are encrypted before the client has taken those before them."""


class Exchange(Stream):
    """The client's side of it. Interim responses end here, but for the 100 that a client waits for; so do trailers."""

    __slots__ = ("_chunked", "_connection", "_refusal", "continued", "doomed", "last", "upgraded")

    passes_trailers: ClassVar[bool] = False

    def __init__(self, connection: InspectedConnection, head: Head, *, last: bool) -> None:
        super().__init__(connection, head, Pipe())
        self._connection: Final = connection
        self._chunked = False
        self._refusal: Answer | None = None
        """What its client is told about a body that is malformed."""
        self.last = last
        """Whether the connection closes behind it."""
        self.doomed = False
        """Whether what has been sent of it must not look whole."""
        self.continued = False
        """Whether its client was told to send the body that it announced with `Expect`."""
        self.upgraded = False
        """Whether the bytes of both sides are those of a WebSocket by now."""

    @property
    def expects(self) -> bool:
        """Whether its client waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1)."""
        head = self._head
        if head.minor == 0 or not (head.chunked or head.content_length):
            return False
        return any(name == "expect" and value.lower() == "100-continue" for name, value in head.fields)

    @property
    def body_withheld(self) -> bool:
        """Whether another request may come in the place of the body: its client was never told to send that."""
        return self.expects and not self.continued and not self.pipe.fed

    # The request.

    def _outgoing(self, admitted: Admitted, filters: Filters | None) -> UpstreamRequest:
        outgoing = super()._outgoing(admitted, filters)
        if not self.body_withheld:
            outgoing = replace(outgoing, fields=[field for field in outgoing.fields if field[0] != b"expect"])
        return outgoing

    def _continue(self) -> None:
        if self.body_withheld and not self._began:
            self.continued = True
            self._connection.write(_CONTINUE)

    async def room(self) -> None:
        """Waits until more of the body may be read."""
        await self.pipe.room(BACKLOG)

    def refuse_body(self, answer: Answer) -> None:
        """Ends the exchange for its malformed body: what has gone upstream of it stays incomplete."""
        self._refusal = answer
        self.cancel("refused:malformed_request")

    def client_left(self) -> None:
        """A client that has sent FIN waits for nothing any more; a WebSocket has been read to its end."""
        if self.upgraded:
            self.pipe.end()
        else:
            self.doomed = True
            self.cancel("client_reset")

    # The response.

    async def _say(self, answer: Answer) -> None:
        self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        self.last = True
        if self._began:
            self.doomed |= not self._answered
            return
        self._began = self._answered = True
        with contextlib.suppress(BrokenBodyError):
            self._connection.write(answer.encode(with_body=self._head.method != "HEAD"))

    def _break_off(self) -> None:
        if self._refusal is not None:
            self._tell(self._refusal)
        else:
            self.doomed |= not self._answered

    async def _let_finish(self) -> None:
        self.doomed |= not self._answered

    def _leave(self) -> None:
        self._connection.forget(self)

    def _send_head(self, seen: ResponseSeen, length: int | None, *, end: bool = False) -> None:  # noqa: ARG002  HTTP/2 says so in the head
        self._connection.write(self._begin(seen, length))

    def _begin(self, seen: ResponseSeen, length: int | None) -> bytes:
        self._began = True
        self.last |= self.body_withheld or self._connection.retired
        self.last_byte = time.monotonic()
        parts = [b"HTTP/1.1 %d %b\r\n" % (seen.status, seen.phrase)]
        parts += [b"%b: %b\r\n" % field for field in seen.fields]
        # RFC 9110, section 8.6: no Content-Length in 1xx and 204; a 304 and the answer to HEAD tell the one of a GET.
        if self.upgraded:
            parts.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        elif length is not None and seen.status != _NO_CONTENT:
            parts.append(b"Content-Length: %d\r\n" % length)
        elif seen.has_body and self._head.minor:
            self._chunked = True
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif not seen.has_body and self._head.method != "HEAD" and seen.status not in (204, 304):
            parts.append(b"Content-Length: 0\r\n")
        if self.last and not self.upgraded:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    async def _respond_at_once(self, grant: Grant, seen: ResponseSeen, exchange: UpstreamExchange) -> None:
        body = exchange.body.take_now() or b""
        grant.charge.down(len(body))
        head = self._begin(seen, seen.length)
        if self._chunked or len(body) > _PIECE:
            self._connection.write(head)
            await self._send_data(body)
            await self._send_end(())
        else:
            self._connection.write(head + body)
            await self._connection.flushed()
        self._answered = True

    async def _send_data(self, data: bytes, *, end: bool = False) -> None:  # noqa: ARG002  `_send_end` follows
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._connection.write(chunk(piece) if self._chunked else piece)
            await self._connection.flushed()

    async def _send_end(self, trailers: Trailers) -> None:  # noqa: ARG002  no receiver has to understand them
        if self._chunked:
            self._connection.write(LAST_CHUNK + b"\r\n")

    async def _see_upload_off(self, sending: asyncio.Task[None], exchange: UpstreamExchange) -> None:
        """The client need not wait for its end; the grant stays out meanwhile, and what goes on is counted."""
        if not self.body_withheld:
            lost = asyncio.ensure_future(exchange.lost())
            try:
                await asyncio.wait((sending, lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
        self.last |= not self.pipe.exhausted

    # WebSocket.

    async def _respond(self, admitted: Admitted, seen: ResponseSeen, exchange: UpstreamExchange) -> None:
        if seen.status != SWITCHING_PROTOCOLS:
            await super()._respond(admitted, seen, exchange)
            return
        self._client.services.admission.examine(admitted, seen)
        secrets = admitted.injection.echo if admitted.injection is not None else None
        self.upgraded = self.last = True
        self._send_head(seen, None)
        self.pipe = self._connection.switch()
        await self._relay(admitted, exchange, EchoGuard(secrets) if secrets is not None else None)
        self._answered = True

    async def _relay(self, admitted: Admitted, exchange: UpstreamExchange, guard: RelayGuard | None) -> None:
        """Raw bytes both ways, until one side has come to its end."""
        charge = admitted.grant.charge

        async def up() -> None:
            while (piece := await self.pipe.take()) is not None:
                data = piece if guard is None else guard.from_client(piece)
                self.last_byte = time.monotonic()
                charge.up(len(data))
                await exchange.send(data)

        async def down() -> None:
            while (piece := await exchange.body.take()) is not None:
                data = piece if guard is None else guard.from_server(piece)
                self.last_byte = time.monotonic()
                charge.down(len(data))
                await self._send_data(data)

        both = [asyncio.ensure_future(way) for way in (up(), down())]
        try:
            ended, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for way in ended:
                way.result()
        except TurnedAwayError as refused:
            self.cause = self.cause or refused.cause
            self._connection.write(refused.last)
        except UpstreamLostError:
            pass  # of a WebSocket the close frames say whether it is whole
        finally:
            for way in both:
                way.cancel()
