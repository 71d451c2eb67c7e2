"""The gate: every client connection of every listener starts here, and every open tunnel is known here."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Final

from cloned_proxy.policy.callers.identity import TokenVerifier
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.enforce.known_refusals import KnownRefusals
from cloned_proxy.proxy.enforce.tunnels import Tunnels
from cloned_proxy.proxy.gate.accepted import Accepted
from cloned_proxy.proxy.gate.all_gone import AllGone
from cloned_proxy.proxy.gate.door import Door
from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.gate.room import Room
from cloned_proxy.proxy.gate.siblings import Siblings
from cloned_proxy.proxy.grants.cells import CellStore, OwnCells
from cloned_proxy.proxy.grants.connection_cap import ConnectionCap
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plain import PlainHttp
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.secrets.injection import Injector, NoSecrets
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.transport import splice
from cloned_proxy.proxy.transport.bulk import Splicer
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.tunnel.transparent import TransparentConnection
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics

_CUT_SECONDS: Final = 1.0
_FULL_SECONDS: Final = 0.02
"""Seconds between two looks for a place."""


class Gate:
    """One for each process, on its event loop."""

    def __init__(
        self,
        *,
        enforcer: Enforcer,
        tokens: TokenVerifier,
        settings: ProxySettings,
        metrics: Metrics,
        inspector: Inspector | None,
        injector: Injector | None = None,
        leaks: LeakWatch | None = None,
        clock: Callable[[], float] = time.time,
        spliced: bool = splice.AVAILABLE,
        cells: CellStore | None = None,
        requests: RequestsApi | None = None,
        plane: Plane | None = None,
        ways: Ways | None = None,
    ) -> None:
        """Without an `injector` every rule that injects a secret refuses; without `leaks` no request is searched.

        `spliced` False keeps all bytes on the transports, as where there is no `os.splice`.

        With a `plane` that one accepts, and serves what it may by itself.

        `cells` is where the workers count their connections; the cap holds for all of them together.
        """
        cells = plane.cells if plane is not None else cells or OwnCells()
        self._plane: Final = plane
        self._siblings: Final = Siblings(cells)
        parties = plane.parties if plane is not None else self._siblings
        self._cap: Final = ConnectionCap(settings.max_connections, cells, parties)
        self._accepted: Final = Accepted(self.leave)
        self._doors: dict[Listener, Door | Porch] = {}
        self._connections: set[Client] = set()
        self._coming: dict[Client, str] = {}
        """Clients that have a place and no transport yet, with why they are cut as soon as they have one."""
        self._held_up = False
        """A client of one of the doors waits for a place."""
        self._all_gone: Final = AllGone(lambda: self.idle)
        self._stopping = False
        self._cutting = False
        """Clients that are still connected are cut."""
        self.at_sweep: Final[set[Callable[[], None]]] = set()
        """Functions that are called at each sweep, whatever its cause."""
        self.tunnels: Final = Tunnels(
            enforcer.review,
            idle_seconds=settings.idle_timeout,
            max_seconds=settings.max_tunnel_seconds,
            clock=time.monotonic,
        )
        self._splicer: Final = Splicer(clock=time.monotonic) if spliced else None
        self._plain: Final = PlainHttp(enforcer.review)
        self._services: Final = GateServices(
            enforcer=enforcer,
            tokens=tokens,
            settings=settings,
            metrics=metrics,
            inspector=inspector,
            injector=injector or Injector(NoSecrets()),
            leaks=leaks or LeakWatch(),
            clock=clock,
            tunnels=self.tunnels,
            ways=ways or Ways(connect_timeout=settings.connect_timeout),
            splicer=self._splicer,
            requests=requests,
            arrived=self._arrived,
            keep=self._keep,
            forget=self._forget,
            stopping=lambda: self._stopping,
            refusals=KnownRefusals(enforcer, tokens, clock, None if plane is None else plane.publish_refusal),
            plain=self._plain,
            publish=plane.publish if plane is not None else lambda *_: False,
            give_back=plane.take_back if plane is not None else lambda _: False,
            plane_idle=self._all_gone.look,
            plane_failed=self._accept_without_plane,
        )
        self._background: set[asyncio.Task[None]] = set()
        self._room: Final = Room(self._cap, self._siblings, self._make_room)
        tokens.at_change.add(self.sweep)
        if plane is not None:
            plane.held_up = self._room.somebody_waits
            plane.start(self._services)

    @property
    def plane_failed(self) -> bool:
        """Whether the native plane had a fault, so that Python serves in its place."""
        return self._plane is not None and self._plane.failed

    @property
    def idle(self) -> bool:
        """Whether no client is connected."""
        here = self._connections or self._coming or self._background
        return not here and (self._plane is None or not self._plane.connections)

    async def open(self, listener: Listener) -> None:
        """Accepts on the listener's socket, which belongs to the gate from now on."""
        if self._plane is not None:
            self._plane.look()  # what led there leads to the proxy itself from now on
            if self._plane.takes(listener):
                self._plane.open(listener)
                self._contend()
                return
        door: Door | Porch
        metrics, take = self._services.metrics, self._accepted.take
        if listener.header_from:
            seconds = self._services.settings.head_timeout
            door = Porch(listener, enter=self.enter, leave=self.leave, take=take, metrics=metrics, seconds=seconds)
        else:
            door = Door(listener, enter=self.enter, leave=self.leave, take=take, waits=metrics.waits)
        door.open()
        self._doors[listener] = door
        self._contend()

    def enter(self, listener: Listener) -> ClientConnection | None:
        """A place for a client of this listener, and the protocol that serves it; None while there is no place.

        Whoever takes one gives it a transport, or has it `leave`.
        """
        if not self._cap.enter(listener.party, contended=self._contended):
            self._held_up = True
            self._room.somebody_waits()
            return None
        kind = ClientConnection if listener.names is None else TransparentConnection
        connection = kind(self._services, listener)
        self._coming[connection] = ""
        return connection

    def leave(self, connection: Client) -> None:
        """Gives a place back of which nothing came."""
        if connection in self._coming:
            del self._coming[connection]
            self._left(connection)

    async def adopt(self, sock: socket.socket, listener: Listener) -> None:
        """Serves one connection that is open already, as if it had come through `listener`, when it has a place."""
        self._room.in_hand(listener, 1)
        try:
            while (connection := self.enter(listener)) is None:  # noqa: ASYNC110  another process may give a place back
                await asyncio.sleep(_FULL_SECONDS)
        finally:
            self._room.in_hand(listener, -1)
        await self._accepted.join(connection, sock)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: self._all_gone.look())

    def close(self, listener: Listener) -> None:
        """Stops accepting on one listener and cuts the connections that came through it: its sandbox has ended."""
        if self._plane is not None and self._plane.close_listener(listener):
            listener.socket.close()
        if (door := self._doors.pop(listener, None)) is not None:
            door.close()
        self._contend()
        for connection in self._coming:
            if connection.listener is listener:
                self._coming[connection] = "listener_closed"
        for connection in tuple(self._connections):
            if connection.listener is listener:
                connection.cut("listener_closed")

    def stop_accepting(self) -> None:
        """Closes every listening socket; what is connected goes on, new heads are answered 503."""
        self._stopping = True
        if self._plane is not None:
            self._plane.stop_accepting()
            for listener in self._plane.listeners:
                listener.socket.close()
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        for connection in tuple(self._connections):
            if connection.quiet:
                connection.let_go()
        if self._services.inspector is not None:
            self._services.inspector.drain()

    async def drain(self, seconds: float) -> None:
        """Stops accepting, gives open flows `seconds` to end by themselves, then cuts them."""
        self.stop_accepting()
        self._plain.close()
        if not await self._all_gone.within(seconds):
            self._cutting = True
            for connection in tuple(self._connections):
                connection.cut("drained")
            if self._plane is not None:
                self._plane.cut("drained")
            await self._all_gone.within(_CUT_SECONDS)
        if self._plane is not None:
            self._plane.stop()
        if self._splicer is not None:
            self._splicer.close()

    def sweep(self) -> None:
        """Cuts every tunnel that the policy in force, a limit or a timeout no longer lets pass.

        The server calls it at each change of the policy, and each second for what time alone revokes.
        """
        if self._plane is not None:
            self._plane.sweep()
        self.tunnels.sweep()
        self._plain.sweep()
        self._services.refusals.forget_what_is_old()
        self._make_room()
        self._services.metrics.waits.carry()
        for told in tuple(self.at_sweep):
            told()

    def _make_room(self) -> None:
        native = () if self._plane is None else self._plane.listeners
        porches = [door for door in self._doors.values() if isinstance(door, Porch)]
        everywhere = (*self._doors, *native)
        self._room.make(everywhere, self._connections, self._plane, porches, contended=self._contended)

    def _arrived(self, connection: Client) -> None:
        cause = self._coming.pop(connection)
        self._connections.add(connection)
        self._all_gone.clear()
        if cause or self._cutting:
            asyncio.get_running_loop().call_soon(connection.cut, cause or "drained")

    def _keep(self, connection: Client) -> None:
        """A place for a connection that has one in the plane, which gives that up behind this."""
        self._cap.place(connection.listener.party)
        closed = self._plane is None or connection.listener not in self._plane.listeners
        self._coming[connection] = "listener_closed" if closed else ""

    @property
    def _contended(self) -> bool:
        """Whether several listeners share the places."""
        return self._siblings.contended

    def _contend(self) -> None:
        native = 0 if self._plane is None else len(self._plane.listeners)
        self._siblings.listen(len(self._doors) + native)
        if self._plane is not None:
            self._plane.contend(contended=self._contended)

    def _forget(self, connection: Client) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._left(connection)
        else:
            self.leave(connection)

    def _left(self, connection: Client) -> None:
        connection.owner = None  # it refers to its client, too: together only the garbage collector would free them
        self._cap.leave(connection.listener.party)
        if self._held_up:
            self._held_up = False
            for door in self._doors.values():
                door.look()
        if not self._connections:
            self._all_gone.look()

    def _accept_without_plane(self) -> None:
        """The plane has closed what it had; its listening sockets are ours."""
        if self._plane is None:
            return
        for listener in self._plane.listeners:
            self._plane.close_listener(listener)
            self._in_background(self.open(listener))
