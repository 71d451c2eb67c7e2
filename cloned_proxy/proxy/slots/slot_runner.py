"""One connection of a runner: the messages of `slot_protocol`, and the slot that lives as long as it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog

from cloned_proxy.local.slot_protocol import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    NamesHandover,
    OpenSlot,
    RunEnd,
    SlotProtocolError,
    decode,
    encode,
)
from cloned_proxy.local.slot_sockets import check_listening
from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.proxy.slots.holders import Holders
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.name_tags import NameTags

_log = structlog.get_logger(__name__)


class SlotHost(Protocol):
    """What the serving process does for a runner; `slot_api.SlotApi` is the one there is."""

    async def open_listener(self, listener: Listener) -> Callable[[], None]: ...

    @property
    def holders(self) -> Holders: ...

    async def open_service(self, listener: Listener, target: tuple[str, int]) -> Callable[[], None]: ...

    async def open_names(
        self, principal: Principal, name: str, names: NamesHandover, descriptors: Sequence[int], shared: Iterable[int]
    ) -> tuple[NameTags, Callable[[], None]]: ...

    def ca_for(self, tool: str) -> str | None: ...

    def status(self, tool: str) -> bytes: ...

    def ended(self, tool: str, run: str, end: RunEnd, command: str = "") -> None: ...

    def changed(self) -> None: ...

    def forget(self, runner: SlotRunner) -> None: ...

    def give_up(self) -> bool: ...


class SlotRunner:
    """One connection of a runner, and the slot that lives as long as it does."""

    def __init__(self, sock: socket.socket, api: SlotHost) -> None:
        self._sock = sock
        self._api = api
        self._closers: list[Callable[[], None]] = []
        self._slot: OpenSlot | None = None
        """None before one is open, and behind the end of its run."""
        self._opened = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._holder: str | None = None
        """The mark of the process that holds us by this connection."""
        self._left = False

    @property
    def open(self) -> bool:
        return bool(self._closers)

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._readable)

    def outlives_us(self) -> None:
        """The serving process stops: the run goes on, and whoever serves next hears of its end."""
        self._slot = None

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._slot is not None:
            seconds = time.monotonic() - self._opened
            self._end(RunEnd("abandoned", seconds, None, "the runner went away before the run had ended"))
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        # Closed before the connection: whoever waits for its end may then count on refused connections.
        self._close_all()
        if self._holder is not None and self._api.holders.leave(self._holder, clean=self._left):
            self._api.give_up()
            self._sock.detach()  # the last holder waits for the end of this process, which closes the connection
        else:
            self._sock.close()
        self._api.forget(self)

    def _close_all(self) -> None:
        for closer in self._closers:
            closer()
        self._closers.clear()

    def _readable(self) -> None:
        descriptors: list[int] = []
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, flags = b"", 0
        handed = _Handed(descriptors)
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self._spawn(self._refuse_all(handed))
        else:
            self._spawn(self._handle(data, handed))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refuse_all(self, handed: _Handed) -> None:
        handed.close()
        await self.close()

    async def _handle(self, data: bytes, handed: _Handed) -> None:
        try:
            reply = await self._answer(decode(data), handed)
        except (SlotProtocolError, OSError, RuntimeError) as error:
            _log.warning("slot refused", problem=str(error))
            reply = encode(ok=False, error=str(error))
        finally:
            handed.close()
        if not self._closed:
            with contextlib.suppress(OSError):
                self._sock.send(reply)

    async def _answer(self, body: dict[str, Any], handed: _Handed) -> bytes:
        match body.get("op"):
            case "open":
                return await self._open(OpenSlot.decode(body), handed)
            case "leave" | "close":
                self._left = True
                await self.close()
                return b""
            case "give back":
                return encode(ok=True, taken=await self._api.holders.take_back(_text(body, "slot")))
            case "done":
                self._end(RunEnd.decode(body))
            case "ran":
                # A run without a slot: `--sandbox process`.
                self._api.ended(_text(body, "tool"), _text(body, "run"), RunEnd.decode(body))
            case _:
                return self._asked(body)
        return encode(ok=True)

    def _asked(self, body: dict[str, Any]) -> bytes:
        """Answers what concerns this process itself, and not the slot of this connection."""
        holders = self._api.holders
        match body.get("op"):
            case "status":
                return self._api.status(str(body.get("tool") or ""))
            case "hold":
                return self._hold(body)
            case "borrow":
                return encode(ok=True, slot=holders.lend(_text(body, "owner"), _text(body, "engine")))
            case "give up":
                return encode(ok=self._api.give_up(), error="it serves until it is told to stop")
            case other:
                raise SlotProtocolError(f"unknown operation {other!r}")

    def _hold(self, body: dict[str, Any]) -> bytes:
        if self._holder is not None:
            raise SlotProtocolError("one connection holds once")
        self._holder = str(body.get("owner") or "")
        self._api.holders.enter(self._holder, str(body.get("engine") or ""))
        return encode(ok=True, standby=self._api.holders.standby)

    async def _open(self, request: OpenSlot, handed: _Handed) -> bytes:
        if self._closers:
            raise SlotProtocolError("one connection carries one slot")
        try:
            return await self._open_all(request, handed)
        except BaseException:
            self._close_all()  # what was opened before something went wrong
            raise

    async def _open_all(self, request: OpenSlot, handed: _Handed) -> bytes:
        names, ports = request.names, len(request.handovers)
        if len(handed) != ports + (0 if names is None else names.count) or not ports:
            raise SlotProtocolError("as many descriptors as listeners and names need, at least one")
        sockets = handed.sockets(ports)
        shares_ports = names is not None and names.spares > 0
        for sock in sockets:
            check_listening(sock, anywhere=shares_ports)
        principal = Principal(tool=request.tool, run=request.run, source=CallerSource.LISTENER)
        name = f"slot {request.run}"
        tags: NameTags | None = None
        if names is not None:
            shared = [handover.port for handover in request.handovers]
            tags, closer = await self._api.open_names(principal, name, names, handed.rest(), shared)
            self._closers.append(closer)
        for sock, handover in zip(sockets, request.handovers, strict=True):
            listener = Listener(sock, principal, name, tags if shares_ports else None)
            if handover.target is None:
                closer = await self._api.open_listener(listener)
            else:
                listener = replace(listener, name=f"{name}:{handover.port}")
                closer = await self._api.open_service(listener, handover.target)
            self._closers.append(closer)
        handed.sockets_are_taken()
        self._slot, self._opened = request, time.monotonic()
        self._api.holders.watch(request.owner, request.engine)
        self._api.changed()
        return encode(ok=True, ca=self._api.ca_for(request.tool))

    def _end(self, end: RunEnd) -> None:
        if self._slot is None:
            raise SlotProtocolError("no run is under way here")
        slot, self._slot = self._slot, None
        self._api.ended(slot.tool, slot.run, end, slot.command)


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise SlotProtocolError(f"the message has no {name}")
    return value


class _Handed:
    """Descriptors that came with one message: closed with it, but for those that somebody has taken."""

    def __init__(self, descriptors: list[int]) -> None:
        self._left = descriptors
        self._sockets: list[socket.socket] = []

    def __len__(self) -> int:
        return len(self._left) + len(self._sockets)

    def sockets(self, count: int) -> list[socket.socket]:
        """The first `count`. Raises OSError for what is no socket."""
        while len(self._sockets) < count:
            sock = socket.socket(fileno=self._left[0])
            del self._left[0]
            sock.setblocking(False)
            sock.set_inheritable(False)
            self._sockets.append(sock)
        return self._sockets

    def sockets_are_taken(self) -> None:
        self._sockets = []

    def rest(self) -> list[int]:
        """All others, which are the caller's from now on."""
        rest, self._left = self._left, []
        return rest

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for descriptor in self.rest():
            os.close(descriptor)
