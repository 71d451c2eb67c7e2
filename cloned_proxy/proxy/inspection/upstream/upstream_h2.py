"""An upstream that speaks HTTP/2: one connection, many exchanges."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from cloned_proxy.proxy.inspection.connections import bounds, heads
from cloned_proxy.proxy.inspection.connections.endpoint import Endpoint, StreamWindow
from cloned_proxy.proxy.inspection.connections.pipe import Pipe, Trailers
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from cloned_proxy.proxy.inspection.examining.examiners import ResponseSeen
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamLostError, UpstreamRequest
from cloned_proxy.proxy.wire.head import HeadError
from cloned_proxy.proxy.wire.response import FIRST_FINAL, ResponseError
from cloned_proxy.store.settings.config import ProxySettings

_log = structlog.get_logger(__name__)

_CONTINUE: Final = 100
_MAX_INTERIM: Final = 16
"""RFC 9110, section 15.2, sets no bound; servers send one or two."""


class UpstreamH2(Endpoint):
    def __init__(self, tls: TlsStream, settings: ProxySettings) -> None:
        super().__init__(tls, client_side=True, max_head_bytes=settings.max_head_bytes)
        self._max_fields: Final = settings.max_head_fields
        self._exchanges: dict[int, ExchangeH2] = {}
        self._retired = False

    @property
    def free(self) -> bool:
        theirs = self.h2.remote_settings.max_concurrent_streams
        open_now = len(self._exchanges)
        return not (self.closed or self._retired) and open_now < min(theirs, bounds.MAX_STREAMS)

    def idle_for(self) -> float:
        return 0.0  # a server that closes says so first, and up to which request it has read (GOAWAY)

    def open(self, outgoing: UpstreamRequest) -> ExchangeH2:
        """Sends the head. Raises UpstreamLostError."""
        try:
            stream = self.h2.get_next_available_stream_id()
            self.h2.send_headers(stream, outgoing.block(), end_stream=outgoing.ended)
        except H2Error as error:
            self._retired = True  # no id is left, or the library has given the connection up
            raise UpstreamLostError(str(error), unprocessed=True) from None
        exchange = self._exchanges[stream] = ExchangeH2(self, stream, outgoing)
        self.flush_soon()
        return exchange

    def forget(self, exchange: ExchangeH2) -> None:
        self._exchanges.pop(exchange.stream, None)
        if self._retired and not self._exchanges:
            self.give_up(ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        self.give_up(ErrorCodes.CANCEL)

    def close(self) -> None:
        self.give_up(ErrorCodes.NO_ERROR)

    def on_event(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self._going_away(event.last_stream_id or 0)
            return
        exchange = self._exchanges.get(getattr(event, "stream_id", None) or 0)
        if exchange is None:
            return
        if isinstance(event, DataReceived):
            if event.flow_controlled_length:
                exchange.body.feed(event.data or b"", event.flow_controlled_length)
        elif isinstance(event, ResponseReceived):
            self._head_came(exchange, event)
        elif isinstance(event, TrailersReceived):
            self._trailers_came(exchange, event)
        elif isinstance(event, StreamEnded):
            exchange.body.end(exchange.trailers)
        elif isinstance(event, InformationalResponseReceived):
            self._interim_came(exchange, event)
        elif isinstance(event, StreamReset):
            refused = event.error_code == ErrorCodes.REFUSED_STREAM
            exchange.ended = True
            exchange.fail(UpstreamLostError(f"reset by the upstream ({event.error_code})", unprocessed=refused))

    def _head_came(self, exchange: ExchangeH2, event: ResponseReceived) -> None:
        try:
            ended = event.stream_ended is not None
            seen = heads.read_response(
                event.headers or [], method=exchange.method, ended=ended, max_fields=self._max_fields
            )
            if seen.status < FIRST_FINAL:
                raise ResponseError("an interim status where the response ends")  # noqa: TRY301  as those of `heads`
        except ResponseError as error:
            exchange.fail(UpstreamLostError(str(error)))
            return
        if not exchange.head.done():
            exchange.head.set_result(seen)

    def _trailers_came(self, exchange: ExchangeH2, event: TrailersReceived) -> None:
        try:
            exchange.trailers = heads.trailers_of(event.headers or [], max_fields=self._max_fields)
        except HeadError as error:
            exchange.fail(UpstreamLostError(str(error)))

    def _interim_came(self, exchange: ExchangeH2, event: InformationalResponseReceived) -> None:
        exchange.interim += 1
        status = next((value for name, value in event.headers or [] if name == b":status"), b"")
        if exchange.interim > _MAX_INTERIM or status == b"101":
            exchange.fail(UpstreamLostError("too many interim responses, or a 101 (RFC 9113, section 8.6)"))
        elif status == b"%d" % _CONTINUE:
            exchange.outgoing.interim()

    def _going_away(self, last: int) -> None:
        self._retired = True
        for stream, exchange in tuple(self._exchanges.items()):
            if stream > last:
                exchange.ended = True
                exchange.fail(UpstreamLostError("the upstream goes away and has not read this", unprocessed=True))

    def on_closed(self, problem: str) -> None:
        self._retired = True
        for exchange in tuple(self._exchanges.values()):
            exchange.ended = True
            exchange.fail(UpstreamLostError(problem or "the upstream closed its connection"))


class ExchangeH2:
    __slots__ = ("_connection", "_window", "body", "ended", "head", "interim", "method", "outgoing", "stream",
                 "trailers")  # fmt: skip

    def __init__(self, connection: UpstreamH2, stream: int, outgoing: UpstreamRequest) -> None:
        self._connection = connection
        self._window = StreamWindow(connection, stream)
        self.stream: Final = stream
        self.outgoing: Final = outgoing
        self.method: Final = outgoing.head.method
        self.body: Pipe = self._window.pipe
        self.head: asyncio.Future[ResponseSeen] = asyncio.get_running_loop().create_future()
        self.trailers: Trailers = ()
        self.interim = 0
        self.ended = outgoing.ended
        """Whether our side of the stream is closed, or all of it."""

    async def send(self, piece: bytes) -> None:
        try:
            await self._connection.send_data(self.stream, piece)
        except (H2Error, OSError) as error:
            raise UpstreamLostError(str(error)) from None

    async def end(self, trailers: Trailers) -> None:
        injection = self.outgoing.injection
        if injection is not None:
            trailers = [one for one in trailers if not injection.is_own(one[0].decode("ascii"))]
        try:
            if trailers:
                self._connection.h2.send_headers(self.stream, list(trailers), end_stream=True)
                self._connection.flush_soon()
            else:
                await self._connection.send_data(self.stream, b"", end=True)
        except (H2Error, OSError) as error:
            raise UpstreamLostError(str(error)) from None
        self.ended = True

    def fail(self, error: UpstreamLostError) -> None:
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()  # nobody may be waiting yet
        self.body.break_off(error)
        self._connection.release(self.stream)

    async def lost(self) -> None:
        await asyncio.get_running_loop().create_future()  # whoever sends is told

    def close(self) -> None:
        if not (self.ended and self.body.ended):
            self._connection.reset(self.stream, ErrorCodes.CANCEL)
        self._window.close()
        self._connection.forget(self)
