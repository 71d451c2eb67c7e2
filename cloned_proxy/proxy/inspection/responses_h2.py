"""An upstream that speaks HTTP/2 alone, behind a client of HTTP/1.1: one exchange at a time.

HTTP/1.1 is asked for first, because a WebSocket needs it. A server that refuses it in the handshake (the alert
no_application_protocol) is asked again for HTTP/2, and from then on at once.
"""

from __future__ import annotations

import time
from typing import Any

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error
from mitmproxy import http as mitmhttp
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http._base import HttpConnection, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from cloned_proxy.proxy.inspection.examiners import ResponseSeen
from cloned_proxy.proxy.inspection.exchange import block_of
from cloned_proxy.proxy.inspection.http2 import heads
from cloned_proxy.proxy.inspection.http2.endpoint import make_connection
from cloned_proxy.proxy.inspection.http_layers import StrictHttpLayer
from cloned_proxy.proxy.inspection.http_stream import Commands
from cloned_proxy.proxy.response import FIRST_FINAL, ResponseError


class StrictHttp2Client(HttpConnection):
    """In place of mitmproxy's, whose reader is lenient."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.server)
        self._session = next(layer for layer in context.layers if isinstance(layer, StrictHttpLayer)).session
        self._h2 = make_connection(client_side=True, max_head_bytes=self._session.max_head_bytes)
        self._stream = 0
        """Of HTTP/2; 0 for none under way."""
        self._id = 0
        """Of mitmproxy's."""
        self._method = ""
        self._body = bytearray()
        self._asked = False
        self._sent = False

    def _handle_event(self, event: events.Event) -> Commands:
        try:
            if isinstance(event, events.Start):
                self._h2.initiate_connection()
            elif isinstance(event, events.DataReceived):
                for received in self._h2.receive_data(event.data):
                    yield from self._received(received)
                self._pump()
            elif isinstance(event, events.ConnectionClosed):
                yield from self._refuse("the connection was closed before the response was complete")
                return
            else:
                self._send(event)
        except (H2Error, ResponseError) as error:
            yield from self._refuse(str(error) or type(error).__name__)
            return
        if (data := self._h2.data_to_send()) and self.conn.state & ConnectionState.CAN_WRITE:
            yield commands.SendData(self.conn, data)

    # The request.

    def _send(self, event: events.Event) -> None:
        if isinstance(event, RequestHeaders):
            self._id, self._method = event.stream_id, event.request.method
            self._stream = self._h2.get_next_available_stream_id()
            self._asked, self._sent = False, event.end_stream
            self._h2.send_headers(self._stream, block_of(self._session.current), end_stream=event.end_stream)
        elif isinstance(event, RequestData):
            self._body += event.data
        elif isinstance(event, RequestEndOfMessage):
            self._asked = True
        elif isinstance(event, RequestProtocolError) and self._stream:
            self._h2.reset_stream(self._stream, ErrorCodes.CANCEL)
            self._forget()
        self._pump()

    def _pump(self) -> None:
        """As the windows of the upstream allow it; what waits is told to the session, which then reads no more."""
        while self._body and self._stream:
            room = min(self._h2.local_flow_control_window(self._stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                break
            self._h2.send_data(self._stream, bytes(self._body[:room]))
            del self._body[:room]
        if self._asked and not self._sent and not self._body and self._stream:
            self._h2.end_stream(self._stream)
            self._sent = True
        self._session.unsent = len(self._body)

    # The response.

    def _received(self, event: Event) -> Commands:
        self._check_read(event)
        if not self._stream or getattr(event, "stream_id", None) != self._stream:
            return
        if isinstance(event, ResponseReceived):
            seen = self._seen(event)
            yield ReceiveHttp(ResponseHeaders(self._id, _response_of(seen), not seen.has_body))
        elif isinstance(event, DataReceived):
            # mitmproxy reads no more while the client's writer is full: that bounds what is here.
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, self._stream)
            if event.data:
                yield ReceiveHttp(ResponseData(self._id, event.data))
        elif isinstance(event, StreamEnded):
            if not self._sent:
                self._h2.reset_stream(self._stream, ErrorCodes.NO_ERROR)
            number = self._forget()
            yield ReceiveHttp(ResponseEndOfMessage(number))

    def _seen(self, event: ResponseReceived) -> ResponseSeen:
        most, ended = self._session.max_head_fields, event.stream_ended is not None
        seen = heads.read_response(event.headers or [], method=self._method, ended=ended, max_fields=most)
        if seen.status < FIRST_FINAL:
            raise ResponseError("an interim status where the response ends")
        return seen

    def _check_read(self, event: Event) -> None:
        if isinstance(event, StreamReset) and event.stream_id == self._stream:
            raise ResponseError("reset by the upstream")
        if isinstance(event, ConnectionTerminated) and self._stream > (event.last_stream_id or 0):
            raise ResponseError("the upstream goes away and has not read this")

    def _forget(self) -> int:
        self._stream = 0
        self._body.clear()
        self._session.unsent = 0
        return self._id

    def _refuse(self, problem: str) -> Commands:
        yield commands.CloseConnection(self.conn)
        if self._stream:
            self._session.response_failed(problem)
            yield ReceiveHttp(ResponseProtocolError(self._forget(), problem, ErrorCode.GENERIC_SERVER_ERROR))
        self._handle_event = self._done  # type: ignore[method-assign, assignment]  # as mitmproxy's layers do it

    def _done(self, _: events.Event) -> Commands:
        yield from ()


def _response_of(seen: ResponseSeen) -> mitmhttp.Response:
    fields: list[tuple[bytes, bytes]] = list(seen.fields)
    if seen.length is not None:
        fields.append((b"Content-Length", b"%d" % seen.length))
    elif seen.has_body:
        fields.append((b"Transfer-Encoding", b"chunked"))
    empty: dict[str, Any] = {"content": None, "trailers": None, "timestamp_end": None}
    return mitmhttp.Response(
        http_version=b"HTTP/1.1",
        status_code=seen.status,
        reason=b"",
        headers=mitmhttp.Headers(fields),
        timestamp_start=time.time(),
        **empty,
    )


def install() -> None:
    """Puts it where mitmproxy's layers look for theirs."""
    setattr(http, "Http2Client", StrictHttp2Client)  # noqa: B010  mypy sees a class
