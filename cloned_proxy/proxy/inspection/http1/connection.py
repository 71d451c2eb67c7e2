"""A client of HTTP/1.1 in an opened tunnel: its bytes are framed here, strictly, and nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from OpenSSL import SSL

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.enforce.tunnels import idle_seconds
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.connections.pipe import BrokenBodyError, Pipe
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from cloned_proxy.proxy.inspection.http1.exchange import BACKLOG, Exchange
from cloned_proxy.proxy.inspection.requests.services import InspectionServices
from cloned_proxy.proxy.inspection.upstream.pool import Pool
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamServices
from cloned_proxy.proxy.wire.body import BodyError, BodyReader, Buffer, OversizeError, UnsizedBody, body_of, take_head
from cloned_proxy.proxy.wire.head import FIRST_OF_TOKEN, Head, HeadError, parse_head

_log = structlog.get_logger(__name__)

MAX_REQUESTS: Final = 1000
"""On one client connection; then it is closed politely. The next CONNECT resolves the name again."""
_END_SECONDS: Final = 1.0


class InspectedConnection:
    """From the first byte of the ClientHello to the end of the client connection: one request after the other."""

    def __init__(self, services: InspectionServices, tls: TlsStream, tunnel: Grant) -> None:
        self.services: Final = services
        self.tunnel: Final = tunnel
        """The grant of the CONNECT whose TLS is opened here."""
        upstream = UpstreamServices(services.sessions, services.settings, services.metrics, services.ways)
        self.pool: Final = Pool(upstream, tunnel, http2=False)
        self.doomed = False
        """Ends in a reset instead of a polite close."""
        self.retired = False
        """Whether the next response says that it is the last one on this connection."""
        self._tls: Final = tls
        self._loop: Final = asyncio.get_running_loop()
        self._buffer = Buffer()
        """What the client has sent and nobody has read: the rest of a body, then pipelined requests."""
        self._body: BodyReader | None = None
        """The body of the request at hand; None when it has been read to its end."""
        self._exchange: Exchange | None = None
        self._free: Final = asyncio.Event()
        """No request is under way."""
        self._requests = 0
        self._closed = False
        self._advancing = False
        self._head_began = False
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None

    @property
    def open_grant(self) -> Grant | None:
        return self._exchange.grant if self._exchange is not None else None

    # The life of the connection.

    async def serve(self) -> None:
        """From the ClientHello to the end of the connection, with all that belongs to it."""
        try:
            async with asyncio.timeout(self.services.settings.head_timeout):
                await self._tls.handshake()
        except (SSL.Error, OSError, EOFError, TimeoutError):
            return
        self._arm(self.services.settings.head_timeout, self._finish)
        self._watch(self.services.settings.idle_timeout)
        self._reading = asyncio.Task(self._read(), loop=self._loop, eager_start=True)
        try:
            await asyncio.wait((self._reading,))
        except asyncio.CancelledError:
            self.cut("client_reset")
            raise
        finally:
            self._closed = True
            self._reading.cancel()
            await self._end_exchange()
            self._disarm()
            if self._watching is not None:
                self._watching.cancel()
            self.pool.close()
            self._tls.abort() if self.doomed else self._tls.close()

    async def _end_exchange(self) -> None:
        """Ends the exchange under way: the connection is ending, with something to say or not."""
        exchange = self._exchange
        if exchange is not None and exchange.task is not None:
            await asyncio.wait((exchange.task,), timeout=_END_SECONDS)
            exchange.cancel("client_reset")

    async def _read(self) -> None:
        try:
            while not self._closed and (data := await self._tls.read()):
                self._buffer += data
                self._advance()
                await self._room()
        except (SSL.Error, OSError):
            self._tls.dead = True
            self._client_left()
        else:
            self._client_left()

    def _client_left(self) -> None:
        if not self._closed and self._exchange is not None:
            self._exchange.client_left()
        self._closed = True

    async def _room(self) -> None:
        """Returns when more of the client may be read. Raises ConnectionResetError when it leaves before that."""
        while not self._closed and (exchange := self._exchange) is not None:
            if self._body is not None:
                if exchange.pipe.size >= BACKLOG:
                    await self._tls.unread(exchange.room, half_closed=not exchange.upgraded)
                return
            if len(self._buffer) <= BACKLOG:
                return
            self._free.clear()
            await self._tls.unread(self._free.wait)

    # What comes.

    def _advance(self) -> None:
        """Reads what there is: a body, then the next head, and so on."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while not self._closed and self._read_body() and self._exchange is None:
                head = self._next_head()
                if head is None:
                    break
                self._begin(head)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self._failed()
        finally:
            self._advancing = False

    def _read_body(self) -> bool:
        """Whether nothing is left of the body at hand."""
        body, exchange = self._body, self._exchange
        if body is None or exchange is None:
            return True
        try:
            while piece := body.read(self._buffer):
                exchange.pipe.feed(piece)
        except BodyError as error:
            self._body = None
            self._closed = True
            answer = self.services.admission.refuse_head(self.tunnel, HeadError(str(error)))
            if exchange.task is None:  # it came with its head, and nothing has been decided
                self._exchange = None
                self._say(answer)
            else:
                exchange.refuse_body(answer)
            return False
        if piece is not None:
            return False
        exchange.pipe.end()
        self._body = None
        return True

    def _next_head(self) -> Head | None:
        buffer = self._buffer
        if not buffer:
            return None
        try:
            if not buffer.starts_with(FIRST_OF_TOKEN):
                raise HeadError("these bytes are not an HTTP request")  # noqa: TRY301  as those of `parse_head`
            data = take_head(buffer, self.services.settings.max_head_bytes)
            if data is not None:
                return parse_head(data, tunnelled=True, max_fields=self.services.settings.max_head_fields)
        except OversizeError as error:
            self._refuse_head(HeadError(str(error), status=431))
        except HeadError as error:
            self._refuse_head(error)
        else:
            if not self._head_began:
                self._head_began = True
                self._arm(self.services.settings.head_timeout, self._head_late)
        return None

    def _begin(self, head: Head) -> None:
        self._disarm()
        self._head_began = False
        self._requests += 1
        exchange = Exchange(self, head, last=not head.keep_alive or self._requests >= MAX_REQUESTS)
        self._exchange = exchange
        self._body = body_of(head)
        self._read_body()
        if self._exchange is exchange:
            exchange.task = asyncio.Task(exchange.run(), loop=self._loop, eager_start=True)

    def switch(self) -> Pipe:
        """From now on all that the client sends goes through this pipe as it is."""
        self._body, pipe = UnsizedBody(), Pipe()
        self._free.set()  # `_room` may wait for the end of this exchange, which now waits for what it reads
        self._loop.call_soon(self._advance)
        return pipe

    # What goes.

    def write(self, data: bytes) -> None:
        """Raises BrokenBodyError."""
        try:
            self._tls.write(data)
        except SSL.Error:
            raise BrokenBodyError("the client has gone") from None

    async def flushed(self) -> None:
        """Waits while the client does not take what was written. Raises BrokenBodyError."""
        try:
            await self._tls.drain()
        except OSError:
            raise BrokenBodyError("the client has gone") from None

    def _refuse_head(self, error: HeadError) -> None:
        """Answers what is no head; the refusal belongs to no exchange."""
        self._say(self.services.admission.refuse_head(self.tunnel, error))

    def _say(self, answer: Answer) -> None:
        self._tls.write(answer.encode())
        self._finish()

    # What ends.

    def forget(self, exchange: Exchange) -> None:
        """Request and response are complete, or broken off."""
        self._exchange = None
        self._free.set()
        self.doomed |= exchange.doomed
        if exchange.last or exchange.doomed or self._body is not None or self._closed:
            self._finish()
            return
        self._arm(self.services.settings.keep_alive_timeout, self._finish)
        self._advance()

    def _finish(self) -> None:
        """Nothing more is read as a request; `serve` comes to its end."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()

    def cut(self, cause: str) -> None:
        """Ends the connection at once, without a further byte."""
        self.doomed = True
        if self._exchange is not None:
            self._exchange.cancel(cause)
        self._tls.abort()
        self._finish()

    def _failed(self) -> None:
        """Called while an unexpected exception is handled."""
        _log.exception("an inspected connection failed and is closed")
        self.cut(Reason.INTERNAL_ERROR.value)

    def drain(self) -> None:
        """The process is about to end: the response at hand, or the next one, says that it is the last."""
        self.retired = True

    def sweep(self) -> None:
        """Cuts an open request that the policy in force, or a limit, no longer lets pass, or that is idle by it."""
        exchange = self._exchange
        if exchange is None or exchange.grant is None:
            return
        decision = self.services.enforcer.review(exchange.grant)
        if not decision.passes:
            self.cut(f"revoked:{decision.reason.value}")
        elif time.monotonic() - exchange.last_byte >= idle_seconds(decision, self.services.settings.idle_timeout):
            self.cut("idle")

    # Deadlines.

    def _watch(self, seconds: float) -> None:
        self._watching = self._loop.call_later(seconds, self._look_for_idleness)

    def _look_for_idleness(self) -> None:
        """Does what the sweep does, for a connection that no sweep reaches."""
        exchange, longest = self._exchange, self.services.settings.idle_timeout
        quiet = time.monotonic() - exchange.last_byte if exchange is not None else 0.0
        if exchange is not None and exchange.grant is not None:
            longest = idle_seconds(exchange.grant.decision, longest)
        if quiet >= longest:
            self.cut("idle")
        else:
            self._watch(longest - quiet)

    def _head_late(self) -> None:
        try:
            self._refuse_head(HeadError("the request head did not come in time", status=408))
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self._failed()

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
