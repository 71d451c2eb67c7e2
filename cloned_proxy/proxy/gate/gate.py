"""The gate: every client connection of every listener starts here, and every open tunnel is known here."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final

from cloned_proxy.policy.callers.identity import TokenVerifier
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.enforce.known_refusals import KnownRefusals
from cloned_proxy.proxy.enforce.tunnels import Tunnels
from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.grants.cells import CellStore, OwnCells
from cloned_proxy.proxy.grants.crowd import Crowd
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plain import PlainHttp
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.secrets.injection import Injector, NoSecrets
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.transport import splice
from cloned_proxy.proxy.transport.bulk import Splicer
from cloned_proxy.proxy.transport.listener import BACKLOG, Listener
from cloned_proxy.proxy.tunnel import connect
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.tunnel.parts import GateParts
from cloned_proxy.proxy.tunnel.transparent import TransparentConnection
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics

_TURNED_AWAY_AT_ONCE: Final = 256
"""How many connections over the cap may be in the middle of being told so; the rest is dropped unanswered."""
_CUT_SECONDS: Final = 1.0


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
        if plane is not None:
            cells = plane.cells
        parties = plane.parties if plane is not None else None
        self._plane: Final = plane
        self._crowd: Final = Crowd(settings.max_connections, cells or OwnCells(), parties)
        self._servers: dict[Listener, asyncio.Server | Porch] = {}
        self._connections: set[ClientConnection] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._stopping = False
        self._cutting = False
        """What is still connected is cut."""
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
        self._parts: Final = GateParts(
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
            admit=self._admit,
            keep=self._keep,
            forget=self._forget,
            stopping=lambda: self._stopping,
            refusals=KnownRefusals(enforcer, plane.publish_refusal if plane is not None else None),
            serve=connect.serve,
            serve_plain=self._plain.serve,
            resume_plain=self._plain.resume,
            publish=plane.publish if plane is not None else lambda *_: False,
            give_back=plane.take_back if plane is not None else lambda _: False,
            plane_idle=self._look_whether_all_are_gone,
            plane_failed=self._accept_without_plane,
        )
        self._adopting: set[asyncio.Task[None]] = set()
        tokens.at_change.add(self.sweep)
        if plane is not None:
            plane.start(self._parts)

    @property
    def plane_failed(self) -> bool:
        """Whether the native plane had a fault, so that Python serves in its place."""
        return self._plane is not None and self._plane.failed

    @property
    def idle(self) -> bool:
        """Whether no client is connected."""
        return not (self._connections or self._adopting) and (self._plane is None or not self._plane.connections)

    async def open(self, listener: Listener) -> None:
        """Accepts on the listener's socket, which belongs to the gate from now on."""
        if listener.header_from:
            settings = self._parts.settings
            porch = Porch(listener, self._adopt_soon, seconds=settings.head_timeout, most=settings.max_connections)
            porch.open()
            self._servers[listener] = porch
            return
        if self._plane is not None:
            self._plane.look()  # what led there leads to the proxy itself from now on
            if self._plane.takes(listener):
                self._plane.open(listener)
                return
        loop = asyncio.get_running_loop()
        accept = partial(self.connection, listener)
        if listener.socket.family == socket.AF_UNIX:
            server = await loop.create_unix_server(accept, sock=listener.socket, backlog=BACKLOG)
        else:
            server = await loop.create_server(accept, sock=listener.socket, backlog=BACKLOG)
        self._servers[listener] = server

    def connection(self, listener: Listener) -> ClientConnection:
        """What serves one connection that came through `listener`: a protocol for its transport."""
        kind = ClientConnection if listener.names is None else TransparentConnection
        return kind(self._parts, listener)

    async def adopt(self, sock: socket.socket, listener: Listener) -> None:
        """Serves one connection that is open already, as if it had come through `listener`."""
        loop = asyncio.get_running_loop()
        transport: object
        transport, _ = await loop.connect_accepted_socket(partial(self.connection, listener), sock)
        # As in `dial.join`: uvloop has the descriptor by now, and the object must not close it once more.
        if not isinstance(transport, asyncio.Transport):
            sock.detach()

    def _adopt_soon(self, sock: socket.socket, listener: Listener) -> None:
        self._in_background(self._adopted(sock, listener))

    async def _adopted(self, sock: socket.socket, listener: Listener) -> None:
        try:
            await self.adopt(sock, listener)
        except OSError:  # the client has gone already
            sock.close()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)
        task.add_done_callback(lambda _: self._look_whether_all_are_gone())

    def close(self, listener: Listener) -> None:
        """Stops accepting on one listener and cuts the connections that came through it: its sandbox has ended."""
        if self._plane is not None and self._plane.close_listener(listener):
            listener.socket.close()
        if (server := self._servers.pop(listener, None)) is not None:
            server.close()
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
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        for connection in tuple(self._connections):
            if connection.quiet:
                connection.cut("drained")
        if self._parts.inspector is not None:
            self._parts.inspector.drain()

    async def drain(self, seconds: float) -> None:
        """Stops accepting, gives open flows `seconds` to end by themselves, then cuts them."""
        self.stop_accepting()
        self._plain.close()
        if not await self._gone_within(seconds):
            self._cutting = True
            for connection in tuple(self._connections):
                connection.cut("drained")
            if self._plane is not None:
                self._plane.cut("drained")
            self._look_whether_all_are_gone()
            await self._gone_within(_CUT_SECONDS)
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
        for told in tuple(self.at_sweep):
            told()

    async def _gone_within(self, seconds: float) -> bool:
        self._look_whether_all_are_gone()
        try:
            async with asyncio.timeout(seconds):
                await self._all_gone.wait()
        except TimeoutError:
            return False
        return True

    def _admit(self, connection: ClientConnection) -> bool:
        admitted = self._crowd.enter(connection, connection.listener.party, contended=self._listening > 1)
        if not admitted and len(self._connections) - len(self._crowd) >= _TURNED_AWAY_AT_ONCE:
            connection.cut("overloaded")
        self._connections.add(connection)
        self._all_gone.clear()
        if self._cutting:
            asyncio.get_running_loop().call_soon(connection.cut, "drained")
        return admitted

    def _keep(self, connection: ClientConnection) -> None:
        self._crowd.place(connection, connection.listener.party)
        self._connections.add(connection)
        self._all_gone.clear()
        if self._cutting or self._plane is None or connection.listener not in self._plane.listeners:
            # Cut while it was on its way from the plane.
            cause = "drained" if self._cutting else "listener_closed"
            asyncio.get_running_loop().call_soon(connection.cut, cause)

    @property
    def _listening(self) -> int:
        return len(self._servers) + (len(self._plane.listeners) if self._plane is not None else 0)

    def _forget(self, connection: ClientConnection) -> None:
        self._crowd.leave(connection)
        self._connections.discard(connection)
        if not self._connections:
            self._look_whether_all_are_gone()

    def _look_whether_all_are_gone(self) -> None:
        if self.idle:
            self._all_gone.set()
        else:
            self._all_gone.clear()

    def _accept_without_plane(self) -> None:
        """The plane has closed what it had; its listening sockets are ours."""
        if self._plane is None:
            return
        for listener in self._plane.listeners:
            self._plane.close_listener(listener)
            self._in_background(self.open(listener))
