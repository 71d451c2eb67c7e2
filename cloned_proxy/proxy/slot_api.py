"""The serving side of sandbox slots: takes listening sockets from runners of the same user and opens them on the gate.

A descriptor is accepted only if it is a listening stream socket on loopback or a unix socket: whoever may speak here
may already do everything this user may, but a mistake must not turn into an open port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from cloned_proxy.policy.model import CallerSource, Principal
from cloned_proxy.proxy.gate import Gate
from cloned_proxy.proxy.listener import BindError, Listener
from cloned_proxy.proxy.service_relay import ServiceRelay
from cloned_proxy.proxy.slot_protocol import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    OpenSlot,
    SlotProtocolError,
    decode,
    encode,
    new_socket,
    peer_user,
    short_path,
)

_log = structlog.get_logger(__name__)
_MAX_RUNNERS: Final = 256
_BACKLOG: Final = 64


class AnotherServesError(BindError):
    """A running `serve` of this workspace takes its sandboxes already."""


class RunMetrics(Protocol):
    """Where the end of a run is counted."""

    def sandbox_finished(self, tool: str, result: str, start_seconds: float | None) -> None: ...


class SlotApi:
    """One for each serving process, on its event loop."""

    def __init__(
        self,
        *,
        gate: Gate,
        path: Path,
        metrics: RunMetrics | None = None,
        ca_for: Callable[[str], str | None] = lambda _tool: None,
        address: Callable[[], str] = lambda: "",
    ) -> None:
        self._gate = gate
        self._path = path
        self._metrics = metrics
        self._ca_for = ca_for
        """The workspace CA in PEM form, if a rule of the tool opens TLS."""
        self._address = address
        """`host:port` of the listener for callers with a credential."""
        self._sock: socket.socket | None = None
        self._runners: set[_Runner] = set()

    def start(self) -> None:
        """Listens. Raises BindError, AnotherServesError when another process of this workspace does already."""
        loop = asyncio.get_running_loop()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        sock = new_socket()
        try:
            with short_path(self._path) as name:
                _clear_stale(self._path, name)
                sock.bind(name)
            self._path.chmod(0o600)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except (OSError, BindError) as error:
            sock.close()
            if isinstance(error, BindError):
                raise
            raise BindError(f"{self._path} cannot be opened: {error.strerror}") from error
        self._sock = sock
        loop.add_reader(sock.fileno(), self._accept)

    async def close(self) -> None:
        """Closes every slot; the tools in them see refused connections from now on."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
            self._path.unlink(missing_ok=True)
        for runner in tuple(self._runners):
            await runner.close()

    @property
    def open_slots(self) -> int:
        return sum(runner.open for runner in self._runners)

    def _accept(self) -> None:
        if self._sock is None:
            return
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        sock.setblocking(False)
        if peer_user(sock) not in (os.geteuid(), 0) or len(self._runners) >= _MAX_RUNNERS:
            _log.warning("slot connection refused", user=peer_user(sock), runners=len(self._runners))
            sock.close()
            return
        runner = _Runner(sock, self)
        self._runners.add(runner)
        runner.start()

    def forget(self, runner: _Runner) -> None:
        self._runners.discard(runner)

    async def open_listener(self, principal: Principal, name: str, sock: socket.socket) -> Callable[[], None]:
        """Opens the proxy's own port of a slot; returns what closes it."""
        listener = Listener(sock, principal, name)
        await self._gate.open(listener)
        return lambda: self._gate.close(listener)

    async def open_service(
        self, principal: Principal, name: str, sock: socket.socket, target: tuple[str, int]
    ) -> Callable[[], None]:
        relay = ServiceRelay(self._gate, Listener(sock, principal, name), target)
        await relay.start()
        return relay.close

    def ca_for(self, tool: str) -> str | None:
        return self._ca_for(tool)

    def status(self, tool: str) -> bytes:
        ca = self._ca_for(tool) if tool else None
        return encode(ok=True, pid=os.getpid(), slots=self.open_slots, address=self._address(), ca=ca)

    def finished(self, tool: str, body: dict[str, Any]) -> None:
        seconds = body.get("start_seconds")
        if self._metrics is not None:
            started = float(seconds) if isinstance(seconds, int | float) else None
            self._metrics.sandbox_finished(tool, str(body.get("result", ""))[:20], started)


class _Runner:
    """One connection of a runner, and the slot that lives as long as it does."""

    def __init__(self, sock: socket.socket, api: SlotApi) -> None:
        self._sock = sock
        self._api = api
        self._closers: list[Callable[[], None]] = []
        self._tool = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def open(self) -> bool:
        return bool(self._closers)

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._readable)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        # Closed before the connection: whoever waits for its end may then count on refused connections.
        for closer in self._closers:
            closer()
        self._closers.clear()
        self._sock.close()
        self._api.forget(self)

    def _readable(self) -> None:
        descriptors: list[int] = []
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, flags = b"", 0
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in sockets:
            sock.set_inheritable(False)
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self._spawn(self._refuse_all(sockets))
        else:
            self._spawn(self._handle(data, sockets))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refuse_all(self, sockets: list[socket.socket]) -> None:
        for sock in sockets:
            sock.close()
        await self.close()

    async def _handle(self, data: bytes, sockets: list[socket.socket]) -> None:
        try:
            reply = await self._answer(decode(data), sockets)
        except (SlotProtocolError, OSError, RuntimeError) as error:
            for sock in sockets:
                sock.close()
            _log.warning("slot refused", problem=str(error))
            reply = encode(ok=False, error=str(error))
        if not self._closed:
            with contextlib.suppress(OSError):
                self._sock.send(reply)

    async def _answer(self, body: dict[str, Any], sockets: list[socket.socket]) -> bytes:
        match body.get("op"):
            case "open":
                return await self._open(OpenSlot.decode(body), sockets)
            case "status":
                return self._api.status(str(body.get("tool") or ""))
            case "done":
                self._api.finished(self._tool, body)
                return encode(ok=True)
            case "close":
                await self.close()
                return b""
            case other:
                raise SlotProtocolError(f"unknown operation {other!r}")

    async def _open(self, request: OpenSlot, sockets: list[socket.socket]) -> bytes:
        if self._closers:
            raise SlotProtocolError("one connection carries one slot")
        if len(sockets) != len(request.handovers) or not sockets:
            raise SlotProtocolError("as many descriptors as listeners, at least one")
        for sock in sockets:
            _check_listening(sock)
        self._tool = request.tool
        principal = Principal(tool=request.tool, run=request.run, source=CallerSource.LISTENER)
        name = f"slot {request.run}"
        for sock, handover in zip(sockets, request.handovers, strict=True):
            sock.setblocking(False)
            if handover.target is None:
                closer = await self._api.open_listener(principal, name, sock)
            else:
                closer = await self._api.open_service(principal, f"{name}:{handover.port}", sock, handover.target)
            self._closers.append(closer)
        return encode(ok=True, ca=self._api.ca_for(request.tool))


def _check_listening(sock: socket.socket) -> None:
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listening or sock.type != socket.SOCK_STREAM:
        raise SlotProtocolError("a descriptor that is not a listening stream socket")
    if sock.family == socket.AF_UNIX:
        return
    if sock.family != socket.AF_INET or not str(sock.getsockname()[0]).startswith("127."):
        raise SlotProtocolError("a slot listens on loopback or on a unix socket, nowhere else")


def _clear_stale(path: Path, name: str) -> None:
    if not path.is_socket():
        return
    with new_socket() as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise AnotherServesError(f"{path} is in use: another `cloned-proxy serve` runs in this workspace")
