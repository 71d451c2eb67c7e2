"""The protocol layers between a client connection and its upstreams.

mitmproxy's own reader of client bytes is lenient and unbounded, so none of it is used: `StrictHttpServer` is the only
parser that ever sees them, and mitmproxy gets the values that it made. Two readers that could disagree do not exist.
"""

from __future__ import annotations

import time
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, HTTPMode
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server

from cloned_proxy.proxy.body import BodyError, BodyReader, Buffer, ChunkedBody, OversizeError, SizedBody, take_head
from cloned_proxy.proxy.head import FIRST_OF_TOKEN, Head, HeadError, parse_head
from cloned_proxy.proxy.inspection.http_stream import Commands, EarlyEndOfMessage, StrictHttpStream
from cloned_proxy.proxy.inspection.session import Session

_SWITCHING: Final = 101
_FIRST_FINAL: Final = 200
_PIECE: Final = 65_536
"""Bytes of a body that are encrypted at once."""


class StrictHttpServer(Http1Server):
    """The client's side: frames its byte stream and serialises the requests in it."""

    buf: Buffer  # type: ignore[assignment]  # the two things that mitmproxy does with it are there

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context)
        self.buf = Buffer()
        self._session = session
        self._began = False
        self._ended_early = False
        self._body: BodyReader = SizedBody(0)

    @property
    def backlog(self) -> int:
        """Bytes received and not yet used: pipelined requests, as far as they have come."""
        return len(self.buf)

    def read_headers(self, event: events.Event) -> Commands:
        if isinstance(event, events.ConnectionClosed):
            yield from self._say_last_words()
            return
        if self.buf and not self._began:
            self._began = True
            self._session.head_began()
        try:
            head = self._find_head()
        except HeadError as error:
            self._session.refuse_head(error)
            yield from self._say_last_words()
            return
        if head is None:
            return
        self._began = False
        self._session.head_read(head)
        self.request = _request_of(head)
        self._body = ChunkedBody() if head.chunked else SizedBody(head.content_length or 0)
        has_body = head.chunked or bool(head.content_length)
        yield ReceiveHttp(RequestHeaders(self.stream_id, self.request, end_stream=not has_body))
        self.state = self.read_body
        yield from self.state(event)

    def _find_head(self) -> Head | None:
        if not self.buf:
            return None
        if not self.buf.starts_with(FIRST_OF_TOKEN):
            raise HeadError("these bytes are not an HTTP request")
        try:
            data = take_head(self.buf, self._session.max_head_bytes)
        except OversizeError as error:
            raise HeadError(str(error), status=431) from error
        if data is None:
            return None
        return parse_head(data, tunnelled=True, max_fields=self._session.max_head_fields)

    def read_body(self, event: events.Event) -> Commands:
        if isinstance(event, events.ConnectionClosed):
            # The client has left, or was cut off: nobody is there to be told anything, and nothing was malformed.
            self.state = self.done
            self._session.doomed = True
            yield ReceiveHttp(RequestProtocolError(self.stream_id, "client gone", ErrorCode.CLIENT_DISCONNECTED))
            yield commands.CloseConnection(self.conn)
            return
        try:
            while (piece := self._body.read(self.buf)) is not None:
                if not piece:
                    return
                yield ReceiveHttp(RequestData(self.stream_id, piece))
        except BodyError as error:
            self._session.refuse_head(HeadError(str(error)))
            yield ReceiveHttp(RequestProtocolError(self.stream_id, str(error), ErrorCode.GENERIC_CLIENT_ERROR))
            yield from self._say_last_words()
            return
        yield ReceiveHttp(RequestEndOfMessage(self.stream_id))
        yield from self.mark_done(request=True)

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, ResponseProtocolError):
            yield from self._say_last_words()
            return
        if isinstance(event, ResponseHeaders):
            status = event.response.status_code
            if status == _SWITCHING or status >= _FIRST_FINAL:
                self._session.response_began()
        if isinstance(event, EarlyEndOfMessage):
            self._session.response_ended_early()
            self._ended_early = True
            yield from self._send_last_chunk()
            if self._session.current.body_withheld:
                self.state = self.done
                yield commands.CloseConnection(self.conn)
        elif isinstance(event, ResponseEndOfMessage):
            if not self._ended_early:
                yield from self._send_last_chunk()
            self._ended_early = False
            yield from self.mark_done(response=True)
        elif isinstance(event, ResponseData):
            # OpenSSL keeps as much memory as it has ever encrypted at once, until the connection is collected.
            for start in range(0, len(event.data), _PIECE):
                yield from super().send(ResponseData(event.stream_id, event.data[start : start + _PIECE]))
        else:
            yield from super().send(event)

    def _send_last_chunk(self) -> Commands:
        if self.request is None or self.response is None:
            raise ValueError("the end of a response that nobody asked for")
        if self.request.method != "HEAD" and "transfer-encoding" in self.response.headers:
            yield commands.SendData(self.conn, b"0\r\n\r\n")

    def mark_done(self, *, request: bool = False, response: bool = False) -> Commands:
        if (self.request_done or request) and (self.response_done or response):
            self._session.exchange_ended()
        yield from super().mark_done(request=request, response=response)

    def _say_last_words(self) -> Commands:
        if self.state == self.done:
            return
        self.state = self.done
        if words := self._session.last_words():
            yield commands.SendData(self.conn, words)
        yield commands.CloseConnection(self.conn)


class StrictHttpLayer(HttpLayer):
    streams: dict[int, StrictHttpStream]  # type: ignore[assignment]

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context, HTTPMode.transparent)
        self.session: Final = session
        self.server = StrictHttpServer(context.fork(), session)
        # HttpLayer keeps a reader that is already there, whatever ALPN says: no byte reaches another one.
        self.connections[context.client] = self.server

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> Commands:
        kept = [each for each in self.connections if isinstance(each, Server) and each.connected]
        if reuse and kept and not self.session.current.may_reuse(self.session.idle_for()):
            for server in kept:
                self.session.retire(server)
            reuse = False
        yield from super().get_connection(event, reuse=reuse)

    def make_stream(self, stream_id: int) -> Commands:
        stream = self.streams[stream_id] = StrictHttpStream(self.context.fork(), stream_id, self.session)
        yield from self.event_to_child(stream, events.Start())


def _request_of(head: Head) -> http.Request:
    """What mitmproxy is told; the addon replaces host and fields by what was decided before anything goes on."""
    return http.Request(
        host=head.host,
        port=head.port,
        method=head.method.encode("ascii"),
        scheme=b"http",
        authority=b"",
        path=head.path.encode("ascii"),
        http_version=b"HTTP/1.1",
        headers=http.Headers(),
        content=None,
        trailers=None,
        timestamp_start=time.time(),
        timestamp_end=None,
    )
