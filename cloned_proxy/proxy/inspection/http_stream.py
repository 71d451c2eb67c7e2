"""One request and its response between the two readers, as mitmproxy's layers pass them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.tcp import TCPLayer

from cloned_proxy.proxy.inspection.session import Session
from cloned_proxy.proxy.relay_guard import TurnedAwayError

type Commands = layer.CommandGenerator[None]

_SWITCHING: Final = 101


class EarlyEndOfMessage(ResponseEndOfMessage):
    """A response is complete and its request is not (RFC 9112, section 9.5): the client need not wait for its end.

    mitmproxy holds that back until the request has been read, and with it the last chunk.
    """


@dataclass
class StaleUpstream(ResponseProtocolError):  # noqa: N818  an event of mitmproxy, no exception
    """The kept connection that a request met had been closed before it came there (RFC 9112, section 9.3.1)."""

    body: bytes = b""
    """What was sent of it."""


class StrictHttpStream(HttpStream):
    """One request and its response; after a 101, raw bytes both ways of which none is kept."""

    def __init__(self, context: Context, stream_id: int, session: Session) -> None:
        super().__init__(context, stream_id)
        self._session = session

    @property
    def waiting(self) -> bool:
        """Whether it waits for a decision or a dial: what arrives meanwhile would pile up without bound."""
        return self._paused is not None

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        request, server = self.flow.request, self.flow.server_conn
        wanted = (request.host, request.port), request.scheme == "https", server.via, server.transport_protocol
        connection, problem = yield GetHttpConnection(*wanted)
        if problem and self._http1_refused():
            connection, problem = yield GetHttpConnection(*wanted)
        if problem:
            failed = ResponseProtocolError(self.stream_id, problem, ErrorCode.CONNECT_FAILED)
            yield from self.handle_protocol_error(failed)
            return False
        self.context.server = self.flow.server_conn = connection
        return True

    def _http1_refused(self) -> bool:
        """Whether the upstream has refused HTTP/1.1 just now, and is to be asked for HTTP/2."""
        exchange = self._session.current
        if not self._session.refuses_http1 or exchange.failure is None or exchange.failure.phase != "tls":
            return False
        exchange.failure = None
        layers = (one for one in self.context.layers if isinstance(one, HttpLayer))
        for connection in next(layers).connections:
            connection.error = None  # else mitmproxy tells the same again, and dials nothing
        return True

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Commands:
        if isinstance(event, StaleUpstream):
            yield from self._send_again(event)
        else:
            yield from super().handle_protocol_error(event)

    def _send_again(self, stale: StaleUpstream) -> Commands:
        """What has been sent until now; what is still to come of the request follows by itself."""
        if not (yield from self.make_server_connection()):
            return
        ended = self.client_state == self.state_done
        server = self.context.server
        yield SendHttp(RequestHeaders(self.stream_id, self.flow.request, end_stream=ended and not stale.body), server)
        if stale.body:
            yield SendHttp(RequestData(self.stream_id, stale.body), server)
        if ended:
            yield SendHttp(RequestEndOfMessage(self.stream_id), server)

    def check_body_size(self, request: bool) -> layer.CommandGenerator[bool]:
        """Told after each piece of a body that is collected: that of a response which a filter holds."""
        if not request:
            self._session.held(len(self.response_body_buf))
        return (yield from super().check_body_size(request))

    def send_response(self, already_streamed: bool = False) -> Commands:
        yield from super().send_response(already_streamed)
        if not already_streamed and self.flow.response is not None:
            self.flow.response.data.content = None  # mitmproxy's objects refer to each other, and outlive the exchange
        if self.server_state == self.state_done and self.client_state == self.state_stream_request_body:
            yield SendHttp(EarlyEndOfMessage(self.stream_id), self.context.client)

    def flow_done(self) -> Commands:
        response = self.flow.response
        if response is None or response.status_code != _SWITCHING:
            yield from super().flow_done()
            return
        self.flow.live = False
        self.child_layer = _RawRelay(self.context, self._session.current.upgraded_bytes)
        self._handle_event = self.passthrough  # as mitmproxy does it
        yield from self.child_layer.handle_event(events.Start())
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)


class _RawRelay(TCPLayer):
    def __init__(self, context: Context, passing: Callable[..., bytes]) -> None:
        super().__init__(context, ignore=True)
        self._passing = passing

    def relay_messages(self, event: events.Event) -> Commands:
        if isinstance(event, events.DataReceived):
            try:
                data = self._passing(event.data, up=event.connection == self.context.client)
            except TurnedAwayError as refused:
                self._handle_event = self.done
                yield commands.SendData(self.context.client, refused.last)
                yield commands.CloseConnection(self.context.server)
                yield commands.CloseConnection(self.context.client)
                return
            if not data:
                return
            event = events.DataReceived(event.connection, data)
        yield from super().relay_messages(event)
