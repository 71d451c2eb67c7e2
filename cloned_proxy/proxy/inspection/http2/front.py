"""An HTTP/2 client in an opened tunnel: its connection and what bounds it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import structlog
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from OpenSSL import SSL

from cloned_proxy.proxy.enforce.tunnels import idle_seconds
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.connections import bounds, heads
from cloned_proxy.proxy.inspection.connections.bounds import Calm
from cloned_proxy.proxy.inspection.connections.endpoint import Endpoint
from cloned_proxy.proxy.inspection.connections.pipe import BrokenBodyError
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from cloned_proxy.proxy.inspection.http2.answering import Http2Stream
from cloned_proxy.proxy.inspection.requests.services import InspectionServices
from cloned_proxy.proxy.inspection.upstream.pool import Pool
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamServices
from cloned_proxy.proxy.transport.linger import LINGER_SECONDS
from cloned_proxy.proxy.wire.head import HeadError

_log = structlog.get_logger(__name__)


class Front(Endpoint):
    """Streams, each a request of its own, and the pool of upstream connections that they share."""

    def __init__(self, services: InspectionServices, tls: TlsStream, tunnel: Grant) -> None:
        settings = services.settings
        super().__init__(tls, client_side=False, max_head_bytes=settings.max_head_bytes)
        self.services: Final = services
        self.tunnel: Final = tunnel
        """The grant of the CONNECT whose TLS is opened here."""
        self.pool: Final = Pool(
            UpstreamServices(services.sessions, settings, services.metrics, services.ways), tunnel, http2=True
        )
        self.doomed = False
        """Ends in a reset instead of a polite close."""
        self._streams: dict[int, Http2Stream] = {}
        self._requests = 0
        self._retired = False
        self._resets = Calm(burst=100, rate=20.0, clock=time.monotonic)
        """Requests that were taken back, or could not be read."""
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """From the ClientHello to the end of the connection, with all that belongs to it."""
        try:
            async with asyncio.timeout(self.services.settings.head_timeout):
                await self.tls.handshake()
        except (SSL.Error, OSError, EOFError, TimeoutError):
            self.doomed = True
            return
        self._await_request(self.services.settings.head_timeout)
        try:
            await self.run()
        finally:
            self._disarm()
            self.closed = True
            tasks = [stream.task for stream in tuple(self._streams.values()) if stream.task is not None]
            for stream in tuple(self._streams.values()):
                stream.cancel("client_reset")
            self.pool.close()
            if tasks:
                await asyncio.wait(tasks, timeout=1.0)

    # What comes.

    def on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._request_came(event)
            return
        if isinstance(event, ConnectionTerminated):
            self._retired = True  # what it has asked for is still wanted
            self._end_if_idle()
            return
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, StreamReset):
            self._reset_came(stream, "client_reset" if event.remote_reset else "refused:malformed_request")
        elif stream is None:
            return
        elif isinstance(event, DataReceived):
            if event.flow_controlled_length:
                stream.pipe.feed(event.data or b"", event.flow_controlled_length)
        elif isinstance(event, TrailersReceived):
            self._trailers_came(stream, event)
        elif isinstance(event, StreamEnded):
            stream.pipe.end(stream.pipe.trailers)

    def _request_came(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        if self._retired:
            self.reset(number, ErrorCodes.REFUSED_STREAM)
            return
        ended = event.stream_ended is not None
        try:
            head = heads.read_request(
                event.headers or [], max_fields=self.services.settings.max_head_fields, ended=ended
            )
        except HeadError as error:
            self._refuse(number, error)
            return
        self._disarm()
        self._requests += 1
        stream = self._streams[number] = Http2Stream(self, number, head)
        stream.task = asyncio.Task(stream.run(), loop=self._loop, eager_start=True)
        if self._requests >= bounds.MAX_REQUESTS:
            self.drain()

    def _refuse(self, number: int, error: HeadError) -> None:
        """A request that is refused for its form alone: RFC 9113, section 8.1.1, lets it be answered."""
        if not self._resets.spend():
            self.give_up(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        answer = self.services.admission.refuse_head(self.tunnel, error)
        with contextlib.suppress(H2Error):
            self.h2.send_headers(number, heads.answer_block(answer))
            self.h2.send_data(number, answer.body, end_stream=True)
        # The client first gets a moment to finish: reset at once, curl forgets the answer that it has.
        self._loop.call_later(LINGER_SECONDS, self.reset, number, ErrorCodes.NO_ERROR)

    def _reset_came(self, stream: Http2Stream | None, cause: str) -> None:
        """Ends a stream that the client has reset, or whose body is not as long as it says."""
        if stream is not None:
            stream.pipe.break_off(BrokenBodyError("reset by the client"))
            self.release(stream.id)
            stream.cancel(cause)
        if not self._resets.spend():
            self.give_up(ErrorCodes.ENHANCE_YOUR_CALM)

    def _trailers_came(self, stream: Http2Stream, event: TrailersReceived) -> None:
        try:
            trailers = heads.trailers_of(event.headers or [], max_fields=self.services.settings.max_head_fields)
            if stream.is_short:  # the library compares them where DATA ends the stream, and only there
                raise HeadError("a body that is shorter than its Content-Length (RFC 9113, section 8.1.1)")  # noqa: TRY301  as those of `heads`
        except HeadError as error:
            self.services.admission.refuse_head(self.tunnel, error)
            stream.pipe.break_off(BrokenBodyError(str(error)))
            stream.cancel("refused:malformed_request")
            return
        stream.pipe.trailers = trailers

    # What ends.

    def forget(self, stream: Http2Stream) -> None:
        self._streams.pop(stream.id, None)
        if not self._streams:
            self._await_request(self.services.settings.keep_alive_timeout)
            self._end_if_idle()

    def on_closed(self, problem: str) -> None:
        if problem and not self.doomed:
            _log.info("an HTTP/2 client's connection was ended", problem=problem, tunnel=self.tunnel.id)
        for stream in tuple(self._streams.values()):
            stream.pipe.break_off(BrokenBodyError(problem or "the client has gone"))
            stream.cancel("client_reset")

    def drain(self) -> None:
        """No further request; those that are open go on."""
        if not (self._retired or self.closed):
            self._retired = True
            with contextlib.suppress(SSL.Error):
                self.retire()
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._retired and not self._streams and not self.closed:
            self._loop.call_soon(self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._streams:
            self.stop_reading()

    def cut(self, cause: str) -> None:
        """Ends the connection at once, without a further byte."""
        self.doomed = True
        for stream in tuple(self._streams.values()):
            stream.cancel(cause)
        self.tls.abort()
        self.stop_reading()

    def sweep(self) -> None:
        """Cuts every open request that the policy in force, or a limit, no longer lets pass, and what is idle by it."""
        now, otherwise = time.monotonic(), self.services.settings.idle_timeout
        for stream in tuple(self._streams.values()):
            if stream.grant is None:
                continue
            decision = self.services.enforcer.review(stream.grant)
            if not decision.passes:
                stream.revoke(decision.reason.value)
            elif now - stream.last_byte >= idle_seconds(decision, otherwise):
                stream.cancel("idle")

    # Deadlines.

    def _await_request(self, seconds: float) -> None:
        self._disarm()
        if not self.closed:
            self._timer = self._loop.call_later(seconds, self.drain)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
