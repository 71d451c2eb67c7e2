"""The upstream's side: a response is read as strictly as on the plain path, and mitmproxy gets the values that it has.

mitmproxy's own reader passes on bare CR, NUL and folded lines, takes every 1xx for the final response, believes a body
that ends with its connection to be whole however that ended, and crashes on trailers.
"""

from __future__ import annotations

import time
from typing import Final

from mitmproxy import http as mitmhttp
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client
from mitmproxy.proxy.layers.tls import ServerTLSLayer
from OpenSSL import SSL

from cloned_proxy.proxy.body import BodyError, BodyReader, Buffer, OversizeError, SizedBody, UnsizedBody, take_head
from cloned_proxy.proxy.inspection.http_layers import StrictHttpLayer
from cloned_proxy.proxy.inspection.http_stream import Commands, StaleUpstream
from cloned_proxy.proxy.response import (
    FIRST_FINAL,
    SWITCHING_PROTOCOLS,
    ResponseError,
    ResponseHead,
    parse_response,
)

_MAX_INTERIM: Final = 16
"""RFC 9110, section 15.2, sets no bound; servers send one or two."""
_CONTINUE: Final = 100
_NO_CONTENT: Final = 204


class StrictHttpClient(Http1Client):
    """Serialises requests, and frames the byte stream that comes back.

    Interim responses end here, but for the 100 that a client waits for. So do trailers, which no receiver has to
    understand (RFC 9110, section 6.5.1).
    """

    buf: Buffer  # type: ignore[assignment]  # the two things that mitmproxy does with it are there

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.buf = Buffer()
        self._session = next(layer for layer in context.layers if isinstance(layer, StrictHttpLayer)).session
        self._tls = next(layer for layer in reversed(context.layers) if isinstance(layer, ServerTLSLayer))
        self._interim = 0
        self._body: BodyReader = SizedBody(0)

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, RequestHeaders) and self._session.current.body_withheld:
            # mitmproxy would answer it itself, and so does not see it.
            event.request.headers["expect"] = "100-continue"
        yield from super().send(event)
        if isinstance(event, RequestProtocolError) and self.state != self.passthrough:
            self.state = self.done  # the client has gone: that its upstream is closed now is no fault of the upstream

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.ConnectionClosed) and self.request is not None:
            exchange = self._session.current
            if not self.buf and not self._interim and exchange.goes_again():
                self.state = self.done
                sent, code = bytes(exchange.copy or b""), ErrorCode.GENERIC_SERVER_ERROR
                yield ReceiveHttp(StaleUpstream(self._stream, "the connection had been closed", code, sent))
            else:
                yield from self._refuse("the connection was closed before a response came")
            return
        if isinstance(event, events.ConnectionClosed) or self.request is None:
            yield from super().read_headers(event)  # closes what is kept
            return
        try:
            head = yield from self._find_head()
        except (ResponseError, OversizeError) as error:
            yield from self._refuse(str(error))
            return
        if head is None:
            return
        self._interim = 0
        body = head.body(self.request.method)
        self._body = body or SizedBody(0)
        self.response = _response_of(head, body)
        yield ReceiveHttp(ResponseHeaders(self._stream, self.response, body is None or head.content_length == 0))
        self.state = self.read_body
        yield from self.state(event)

    def _find_head(self) -> CommandGenerator[ResponseHead | None]:
        while (data := take_head(self.buf, self._session.max_head_bytes)) is not None:
            head = parse_response(data, max_fields=self._session.max_head_fields)
            if head.status >= FIRST_FINAL:
                return head
            if head.status == SWITCHING_PROTOCOLS:
                if head.upgrade != b"websocket":
                    raise ResponseError("101 for an upgrade that nobody asked for (RFC 9110, section 15.2.2)")
                return head
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise ResponseError(f"more than {_MAX_INTERIM} interim responses")
            if head.status == _CONTINUE and self._session.current.continues():
                yield commands.SendData(self.context.client, b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def read_body(self, event: events.Event) -> Commands:
        if isinstance(event, events.ConnectionClosed) and not self._ends_here():
            yield from self._refuse("the connection was closed inside a response")
            return
        try:
            while piece := self._body.read(self.buf):
                yield ReceiveHttp(ResponseData(self._stream, piece))
        except BodyError as error:
            yield from self._refuse(str(error))
            return
        if piece is None or isinstance(event, events.ConnectionClosed):
            yield ReceiveHttp(ResponseEndOfMessage(self._stream))
            yield from self.mark_done(response=True)

    def _ends_here(self) -> bool:
        """RFC 9112, section 9.8: a body that ends with its connection is whole only behind a close_notify."""
        closed = self._tls.tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN
        return isinstance(self._body, UnsizedBody) and bool(closed)

    @property
    def _stream(self) -> int:
        if self.stream_id is None:
            raise ValueError("a response that nothing was asked for")
        return self.stream_id

    def _refuse(self, problem: str) -> Commands:
        self.state = self.done
        self._session.response_failed(problem)
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(ResponseProtocolError(self._stream, problem, ErrorCode.GENERIC_SERVER_ERROR))

    def mark_done(self, *, request: bool = False, response: bool = False) -> Commands:
        yield from super().mark_done(request=request, response=response)
        if self.response_done and not self.request_done:
            # An early answer: when the upstream has gone nobody takes the rest of the request.
            self.state = self.wait
            if not self.conn.state & ConnectionState.CAN_READ:
                yield from self.wait(events.ConnectionClosed(self.conn))

    def wait(self, event: events.Event) -> Commands:
        """For the end of the request. Bytes behind the response belong to nothing, and are not collected."""
        if isinstance(event, events.DataReceived):
            yield commands.CloseConnection(self.conn)
        else:
            yield from super().wait(event)


def _response_of(head: ResponseHead, body: BodyReader | None) -> mitmhttp.Response:
    """What mitmproxy is told: the fields that pass, and the framing (RFC 9112, section 6.3) towards the client."""
    lines = (line.partition(b":") for line in head.lines)
    fields = [(name, value.strip()) for name, _, value in lines]
    # RFC 9110, section 8.6: no Content-Length in 1xx and 204; a 304 and the answer to HEAD tell the one of a GET.
    if head.content_length is not None and head.status >= FIRST_FINAL and head.status != _NO_CONTENT:
        fields.append((b"Content-Length", b"%d" % head.content_length))
    elif body is not None:
        fields.append((b"Transfer-Encoding", b"chunked"))
    # Chunks announced and none allowed (an answer to HEAD): whether some follow is anybody's guess.
    if not head.keep_alive or isinstance(body, UnsizedBody) or (head.chunked and body is None):
        fields.append((b"Connection", b"close"))
    return mitmhttp.Response(
        http_version=b"HTTP/1.1",
        status_code=head.status,
        reason=head.phrase,
        headers=mitmhttp.Headers(fields),
        content=None,
        trailers=None,
        timestamp_start=time.time(),
        timestamp_end=None,
    )


def install() -> None:
    """Puts it where mitmproxy's layers look for theirs."""
    setattr(http, "Http1Client", StrictHttpClient)  # noqa: B010  mypy sees a class
