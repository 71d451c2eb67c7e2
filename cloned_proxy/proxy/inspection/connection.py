"""One inspected client connection: its exchanges, its upstream connections and its deadlines.

Of mitmproxy's machinery the one place that dials is replaced: it knows checked addresses, never a name.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, Final

import structlog
from mitmproxy import options
from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.server import ConnectionIO
from mitmproxy.proxy.server_hooks import ServerConnectHook, ServerConnectionHookData

from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.dial import DialError, ExhaustedError
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.head import Head, HeadError
from cloned_proxy.proxy.inspection.exchange import Exchange
from cloned_proxy.proxy.inspection.hooks import FailClosedHandler, UndecidedError
from cloned_proxy.proxy.inspection.http_layers import StrictHttpLayer
from cloned_proxy.proxy.inspection.parts import InspectionParts, make_layers
from cloned_proxy.proxy.inspection.reach import reach
from cloned_proxy.proxy.inspection.streams import ClientReader, ClientWriter, UpstreamReader
from cloned_proxy.proxy.tunnels import idle_seconds, response_seconds

_log = structlog.get_logger(__name__)

MAX_REQUESTS: Final = 1000
"""On one client connection; then it is closed politely. mitmproxy keeps a little of each, for ever."""
_MAX_BACKLOG: Final = 65_536
"""Pipelined bytes that wait for their turn before the client is no longer read."""


class InspectedConnection(FailClosedHandler):
    """From the first byte of the ClientHello to the end of the client connection."""

    def __init__(
        self,
        parts: InspectionParts,
        opts: options.Options,
        reader: ClientReader,
        writer: ClientWriter,
        tunnel: Grant,
    ) -> None:
        super().__init__(parts, opts, reader, writer)
        self.tunnel: Final = tunnel
        """The grant of the CONNECT whose TLS is opened here."""
        self.max_head_bytes = parts.settings.max_head_bytes
        self.max_head_fields = parts.settings.max_head_fields
        self.unsent = 0
        self.refuses_http1 = False
        self._requests = 0
        self._retiring: list[Connection] = []
        self._orphan: answers.Answer | None = None
        """The answer to a head that could not be read, and so belongs to no exchange."""
        self._writer = writer
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._idle_since = self._loop.time()
        self.timeout_watchdog.timeout = parts.settings.idle_timeout  # type: ignore[assignment]  # seconds, any number
        # What NextLayer would guess from the first bytes, and could be made to guess wrong, is fixed here.
        context = self.layer.context
        self.layer, self._http = make_layers(context, self, tunnel)

    @property
    def http_layer(self) -> StrictHttpLayer:
        return self._http

    @property
    def open_grant(self) -> Grant | None:
        return self._exchange.grant if self._exchange is not None else None

    # For a request that waits for a person.

    @property
    def gone(self) -> bool:
        return self._reader.ended

    def watch(self) -> None:
        """The stream behind the reader is filled all the time, up to its bound."""

    # Events, and what bounds them.

    async def server_event(self, event: events.Event) -> None:
        await super().server_event(event)
        # While a stream waits for a decision or a dial, and while enough is pipelined, the client is not read.
        waiting = any(stream.waiting for stream in self._http.streams.values())
        self._reader.hold(waiting or max(self.unsent, self._http.server.backlog) > _MAX_BACKLOG)

    # The exchange, as the layers tell it.

    def head_began(self) -> None:
        self._arm(self.parts.settings.head_timeout, self._head_late)

    def head_read(self, head: Head) -> None:
        self._disarm()
        self._requests += 1
        self._exchange = Exchange(head, last=not head.keep_alive or self._requests >= MAX_REQUESTS)

    def refuse_head(self, error: HeadError) -> None:
        """A head or a body that is refused for its form alone."""
        answer = self.parts.admission.refuse_head(self.tunnel, error)
        if self._exchange is None:
            self._orphan = answer
        else:
            self._exchange.answer = answer
            self._exchange.cause = f"refused:{error.reason.value}"

    def response_began(self) -> None:
        self.current.began = True

    def response_failed(self, problem: str) -> None:
        exchange = self._exchange
        if exchange is None or self.doomed or exchange.cause or exchange.failure is not None:
            return  # the connection was closed from here, for a reason that is known
        exchange.failure = UpstreamFailure("response")
        decision = exchange.grant.id if exchange.grant is not None else None
        _log.info("an upstream's response was refused", problem=problem, decision=decision)

    def response_ended_early(self) -> None:
        self.current.received = True

    def last_words(self) -> bytes:
        exchange = self._exchange
        if exchange is None:
            return self._orphan.encode() if self._orphan is not None else b""
        if exchange.began:
            self.doomed |= not (exchange.upgraded or exchange.received)
            return b""
        answer = exchange.answer
        if answer is None and exchange.failure is not None and exchange.grant is not None:
            answer = answers.failed(exchange.failure, exchange.grant.decision, exchange.grant.id)
        exchange.began = True
        return (answer or answers.unavailable()).encode(with_body=exchange.head.method != "HEAD")

    def exchange_ended(self) -> None:
        """Request and response are complete: the connection waits for the next head."""
        if self._exchange is None or self._exchange.upgraded:
            return
        self.finish("closed")
        self._exchange = None
        self._idle_since = self._loop.time()
        for server in self._retiring:
            self.retire(server)
        self._retiring.clear()
        self._forget_closed()
        self._arm(self.parts.settings.keep_alive_timeout, self._quiet_too_long)

    def held(self, count: int) -> None:
        if self.current.held_too_much(count):
            self.retire_upstreams()

    def idle_for(self) -> float:
        return self._loop.time() - self._idle_since

    def finish(self, cause: str) -> None:
        """Returns the grant of the exchange at hand; only the first call counts."""
        exchange = self._exchange
        if exchange is not None and exchange.grant is not None:
            self.parts.enforcer.finish(exchange.grant, exchange.cause or cause)
        if exchange is not None and exchange.filters is not None and exchange.filters.limit:
            self._writer.when_taken(partial(exchange.filters.came, 0))

    def finish_failed(self) -> None:
        self._disarm()
        failure = self._exchange.failure if self._exchange is not None else None
        self.finish(failure.cause if failure is not None else "client_reset")

    # Upstream connections.

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """As in mitmproxy, without names and without its resolver: dials an address of the grant, and only that."""
        server = command.connection
        data = ServerConnectionHookData(client=self.client, server=server)
        await self.handle_hook(ServerConnectHook(data))
        if server.error is not None:
            await self.server_event(events.OpenConnectionCompleted(command, server.error))
            return
        exchange = self.current
        streams = await self._dial(exchange, server)
        if streams is None:
            server.error = "unreachable"
            self.transports.pop(server, None)
            await self.server_event(events.OpenConnectionCompleted(command, server.error))
            return
        reader, writer = streams
        server.timestamp_tcp_setup = time.time()
        server.state = ConnectionState.OPEN
        server.peername = writer.get_extra_info("peername")
        server.sockname = writer.get_extra_info("sockname")
        bounded: Any = UpstreamReader(reader, lambda: self._exchange)  # it has the one method that is used
        self.transports[server] = ConnectionIO(handler=asyncio.current_task(), reader=bounded, writer=writer)
        try:
            if server.tls:
                self._arm(self.parts.settings.connect_timeout, lambda: self._late("tls"))
            await self.server_event(events.OpenConnectionCompleted(command, None))
            await self.handle_connection(server)
        finally:
            writer.transport.abort() if self.doomed else writer.close()

    async def _dial(
        self, exchange: Exchange, server: Server
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        grant = exchange.grant
        if grant is None:
            raise UndecidedError("a dial without a grant")
        server.timestamp_start = time.time()
        try:
            return await reach(grant, self.parts.ways, self.parts.metrics)
        except DialError as error:
            exchange.failure = answers.not_dialled(error)
            return None
        except ExhaustedError:
            exchange.answer = answers.unavailable()
            return None

    def retire(self, server: Connection) -> None:
        if server in self.transports and server.state is not ConnectionState.CLOSED:
            self.close_connection(server)

    def retire_upstreams(self) -> None:
        """The end of an upstream connection tells the layers, which then ask for the last words."""
        for connection in list(self.transports):
            if isinstance(connection, Server):
                self.retire(connection)

    def stop_request(self, cause: str) -> None:
        """What is on its way upstream must not go on. The client is told, where it has nothing of a response yet."""
        self.cut(cause) if self.current.began else self.retire_upstreams()

    def retire_after(self, server: Connection) -> None:
        """The upstream has said that it closes behind this response."""
        self._retiring.append(server)

    def _forget_closed(self) -> None:
        """Mitmproxy's layer looks at every upstream connection there ever was, for each request."""
        for connection in list(self._http.connections):
            if isinstance(connection, Server) and connection not in self.transports:
                del self._http.connections[connection]

    # Deadlines.

    def expect_response(self) -> None:
        self.current.asked = True
        seconds, grant = self.parts.settings.response_timeout, self.open_grant
        self._arm(
            seconds if grant is None else response_seconds(grant.decision, seconds), lambda: self._late("response")
        )

    def response_came(self) -> None:
        self._disarm()

    def tls_established(self) -> None:
        self._disarm()
        if self.current.asked:
            self.expect_response()  # the deadline of the handshake has taken the place of this one

    def wait_for_first_head(self) -> None:
        self._arm(self.parts.settings.head_timeout, self._quiet_too_long)

    def is_quiet_for(self, seconds: float) -> bool:
        """Whether no byte has passed for so long. The watchdog, which knows one time for all, does not come sooner."""
        watchdog = self.timeout_watchdog
        watchdog.timeout = max(watchdog.timeout, seconds)  # type: ignore[assignment]  # as in `__init__`
        return time.time() - watchdog.last_activity >= seconds

    async def on_timeout(self) -> None:
        """When no byte has passed for too long; the name is mitmproxy's. What has begun must not look whole."""
        if self.open_grant is not None:
            self.cut("idle")
        else:
            await super().on_timeout()

    def _late(self, phase: str) -> None:
        if self._exchange is not None:
            self._exchange.failure = UpstreamFailure(phase, timed_out=True)
        self.retire_upstreams()

    def _head_late(self) -> None:
        self.refuse_head(HeadError("the request head did not come in time", status=408))
        self._quiet_too_long()

    def _quiet_too_long(self) -> None:
        self.close_connection(self.client) if self.client in self.transports else None

    def sweep(self) -> None:
        """Cuts an open request that the policy in force, or a limit, no longer lets pass, or that is idle by it."""
        grant = self.open_grant
        if grant is None:
            return
        decision = self.parts.enforcer.review(grant)
        if not decision.passes:
            self.cut(f"revoked:{decision.reason.value}")
        elif self.is_quiet_for(idle_seconds(decision, self.parts.settings.idle_timeout)):
            self.cut("idle")

    def end(self) -> None:
        """After the last byte: nothing stays armed and no grant stays out."""
        self._disarm()
        self.finish("closed" if not self.doomed else "client_reset")

    def _arm(self, seconds: float, then: Any) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
