"""The way of an exchange to its upstream: a connection that was kept, or a new one to a checked address."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.upstream import Conversation, PlainPool, PlainUpstream, Rejoined
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError, join
from cloned_proxy.proxy.wire.body import BodyError

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient


class Traveller(Conversation, Protocol):
    """The exchange, which becomes the conversation of the connection that it gets."""

    def reached(self, upstream: PlainUpstream) -> None:
        """Raises BodyError."""

    def not_reached(self, error: DialError | ExhaustedError) -> None: ...

    def refuse_body(self, error: BodyError) -> None: ...


class Reach:
    """One for each exchange, which it does not know: with a cycle only the collector could free the two."""

    __slots__ = ("_absolute", "_client", "_grant", "_task")

    def __init__(self, client: PlainClient, grant: Grant, *, upgrades: bool) -> None:
        """`upgrades`: the request asks for a WebSocket, which goes through a tunnel (RFC 6455, section 4.1)."""
        self._client = client
        self._grant = grant
        self._absolute = not upgrades and client.services.ways.chained(grant)
        """The proxy in front gets the request itself."""
        self._task: asyncio.Task[None] | None = None

    def begin(self, traveller: Traveller, *, repeatable: bool) -> None:
        """Tells the traveller at once where a connection was kept. Raises BodyError, as that does.

        A kept connection may turn out to be closed: then only what is `repeatable` can be sent again.
        """
        upstream = self._client.pool.take(self._grant, repeatable=repeatable, chained=self._absolute)
        if upstream is None:
            self.dial(traveller)
            return
        upstream.conversation = traveller
        traveller.reached(upstream)

    def dial(self, traveller: Traveller) -> None:
        self._task = asyncio.get_running_loop().create_task(self._connect(traveller))

    def go_on(self, sock: socket.socket, traveller: Traveller, then: Callable[[PlainUpstream], None]) -> None:
        """With a connection that carries the request already: `then` is told before its first byte is read."""
        upstream = Rejoined(self._client.pool, self._grant, traveller, then)
        # Called off before its first step a task would have left the socket to nobody.
        joining = asyncio.ensure_future(join(sock, lambda: upstream))
        self._task = asyncio.get_running_loop().create_task(_joined(joining, upstream))

    def end(self, upstream: PlainUpstream | None, *, complete: bool, clean: bool) -> None:
        """Lets go of the connection, if there is one yet. The traveller will be told nothing any more.

        It is reset unless the exchange on it is `complete`, and kept only if it is `clean` behind that.
        """
        if self._task is not None:
            self._task.cancel()
        if upstream is None or upstream.ended:
            return
        if not complete:
            upstream.give_up()
        elif clean:
            if self._client.full:
                upstream.transport.resume_reading()
            self._client.pool.put(upstream)
        else:
            upstream.retire()

    async def _connect(self, traveller: Traveller) -> None:
        client = self._client
        with ClosingOnFailure(client):
            try:
                outcome = await self._connected(traveller)
                self._task = None
                if isinstance(outcome, PlainUpstream):
                    traveller.reached(outcome)
                else:
                    traveller.not_reached(outcome)
                client.balance()
            except BodyError as error:
                traveller.refuse_body(error)

    async def _connected(self, traveller: Traveller) -> PlainUpstream | DialError | ExhaustedError:
        client = self._client
        try:
            return await connect(client.services, client.pool, self._grant, traveller, absolute=self._absolute)
        except (DialError, ExhaustedError) as error:
            return error


async def connect(
    services: GateServices, pool: PlainPool, grant: Grant, conversation: Conversation, *, absolute: bool = False
) -> PlainUpstream:
    """A new connection to where the grant leads, or (`absolute`) to the proxy that the request itself is sent to.

    Raises DialError and ExhaustedError.
    """
    started = time.perf_counter()
    sock, hop = await services.ways.connect_to_front(grant) if absolute else (await services.ways.connect(grant), None)
    upstream = PlainUpstream(pool, grant, conversation, hop)
    await _joined(asyncio.ensure_future(join(sock, lambda: upstream)), upstream)
    if upstream.address is None:
        raise DialError("the upstream closed the connection as soon as it was made")
    services.metrics.upstream_connected(time.perf_counter() - started)
    return upstream


async def _joined(joining: asyncio.Future[None], upstream: PlainUpstream) -> None:
    try:
        await asyncio.shield(joining)
    except asyncio.CancelledError:
        # Joining is not called off half-way, when nobody could say whose the socket is.
        joining.add_done_callback(lambda _: upstream.give_up())
        raise
