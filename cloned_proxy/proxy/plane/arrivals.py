"""What the plane hands over: each connection is given to the loop, and goes on there as one of the gate's own."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.underway import BodyLeft, BodyStage, Underway
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane.questions import Questions
from cloned_proxy.proxy.plane.resumed import STAGES, Handed, HandedConnection, Stage, failure_at
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.gate_services import GateServices

_log = structlog.get_logger(__name__)

_BUFFER: Final = 1 << 22
"""Bytes: more than the longest head that a setting permits and two reads, of each side."""
_MICROSECOND: Final = 1e-6
_UNKNOWN: Final = Stage.UNKNOWN.value


class Arrivals:
    """Takes over what one plane hands over, on the event loop."""

    def __init__(
        self,
        native: ctypes.CDLL,
        plane: int,
        services: GateServices,
        *,
        questions: Questions,
        listener_of: Callable[[int], tuple[Listener | None, int]],
    ) -> None:
        """`listener_of`: by its number, with the column of its party; None once it is closed."""
        self._library: Final = native
        self._plane: Final = plane
        self._services: Final = services
        self._questions: Final = questions
        self._verdicts: Final = questions.verdicts
        self._listener_of: Final = listener_of
        self._buffer: Final = ctypes.create_string_buffer(_BUFFER)
        self._loop: Final = asyncio.get_running_loop()
        self._adopting: Final[set[asyncio.Task[None]]] = set()

    def __len__(self) -> int:
        """How many are on their way to the loop."""
        return len(self._adopting)

    def take(self, most: int | None = None) -> bool:
        """Takes all of them, or so many; whether there were no more."""
        handed = library.HandedOver()
        out, take = ctypes.byref(handed), self._library.plane_take
        for _ in itertools.count() if most is None else range(most):
            if not take(self._plane, out, self._buffer, _BUFFER):
                return True
            self._adopt(handed)
        return False

    def _adopt(self, handed: library.HandedOver) -> None:
        listener, party = self._listener_of(handed.listener)
        client, server = handed.client_length, handed.server_length
        length = client + server + handed.unsent_length
        data = b""
        if length <= _BUFFER:
            data = ctypes.string_at(self._buffer, length)
            ctypes.memset(self._buffer, 0, length)  # a credential is not to stay until so many bytes come again
        head = None
        if handed.stage == _UNKNOWN and listener is not None and data:
            began = time.perf_counter()
            head = self._questions.head_of(data)
            if head is not None and self._questions.settle(listener, head):
                took = int((time.perf_counter() - began) * 1e6)
                self._library.plane_return(self._plane, handed.fd, handed.listener, party, data, length, took)
                return
        sock = _client_of(handed.fd, listener)
        upstream = socket.socket(fileno=handed.upstream) if handed.upstream >= 0 else None
        grant = self._grant_of(handed) if handed.granted else None
        published = self._verdicts.known[handed.verdict] if grant is not None else None
        known = published.handle if published is not None else None
        if listener is None or len(data) != length:
            self._library.plane_adopted(self._plane, party, known)
            sock.close()
            if upstream is not None:
                upstream.close()
            if grant is not None:
                self._services.enforcer.finish(grant, "listener_closed")
            return
        arrived = Handed(
            STAGES[handed.stage],
            sock,
            listener,
            data[:client],
            grant,
            upstream,
            data[client : client + server],
            max(0.0, handed.hello_deadline * _MICROSECOND - time.monotonic()),
            _underway(handed, grant, upstream, data) if grant is not None and handed.head_length else None,
            head,
        )
        connection = HandedConnection(self._services, arrived)
        # Counted here before it is counted there no more: in between nobody finds a place that there is not.
        self._services.keep(connection)
        self._library.plane_adopted(self._plane, party, known)
        # Begun here and now: it is all but done when it waits for the first time.
        task = asyncio.Task(self._join(connection, arrived), loop=self._loop, eager_start=True)
        if not task.done():
            self._adopting.add(task)
            task.add_done_callback(self._adopted)

    def _adopted(self, task: asyncio.Task[None]) -> None:
        self._adopting.discard(task)
        self._services.plane_idle()

    def _grant_of(self, handed: library.HandedOver) -> Grant:
        published = self._verdicts.known[handed.verdict].grant
        charge = self._services.enforcer.basis.budgets.adopt(published.caller.tool, up=handed.up)
        return replace(published, id=bytes(handed.id).hex(), charge=charge, since=handed.since * _MICROSECOND)

    async def _join(self, connection: HandedConnection, handed: Handed) -> None:
        """Gives the client's socket to the loop."""
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: connection, handed.sock)
        except OSError as error:
            _log.warning("a connection was lost on its way from the plane", reason=str(error))
            handed.close()
            self._services.forget(connection)
            if handed.grant is not None:
                self._services.enforcer.finish(handed.grant, "client_reset")
            return
        # As in `dial.join`: uvloop has the descriptor by now, and the object must not close it once more.
        if not isinstance(transport, asyncio.Transport):
            handed.sock.detach()


def _client_of(fd: int, listener: Listener | None) -> socket.socket:
    """The socket, of the kind of its listener where one is known: that spares asking the kernel."""
    if listener is None:
        return socket.socket(fileno=fd)
    accepting = listener.socket
    return socket.socket(accepting.family, accepting.type, accepting.proto, fileno=fd)


def _underway(handed: library.HandedOver, grant: Grant, upstream: socket.socket | None, data: bytes) -> Underway:
    head, client = handed.head_length, handed.client_length
    return Underway(
        grant=grant,
        head=data[:head],
        unread=data[head:client],
        body=BodyLeft(BodyStage(handed.body), handed.left, handed.extras),
        upstream=upstream,
        unsent=data[client + handed.server_length :],
        answer=data[client : client + handed.server_length],
        started=handed.started,
        failure=failure_at(STAGES[handed.stage]),
    )
