"""Who makes room while others wait for a place: clients that are connected and ask for nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.gate.stalled import Stalled
from cloned_proxy.proxy.grants.crowd import Crowd
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.settled import is_settled
from cloned_proxy.proxy.tunnel.connection import ClientConnection

_QUIET_SECONDS: Final = 1.0
"""Between two requests: whoever has another one soon does not connect anew for it."""
_BEGUN_SECONDS: Final = 1.0
"""A head of a client that means it has come by then; one that is fed byte by byte is given up for who waits."""
_LEAST_SECONDS: Final = 0.05
"""So long every client has for its head, however many wait."""
_TURN_SECONDS: Final = 0.5
"""If nothing but heads is in the way of all who wait, they have had their places after so long."""
_LOOK_SECONDS: Final = 0.05
"""Between two looks while somebody waits; more where a look at thousands of connections takes its time."""
_PART_OF_LOOKING: Final = 20
"""Looking takes at most one part in so many of the time."""
_UNACKED: Final = struct.Struct("24xI")
"""`tcpi_unacked` of `struct tcp_info` (linux/tcp.h): at a listening socket, how many wait to be accepted."""


class Room:
    """Of one gate. A client is never let go of for this while it is served, or while nobody waits."""

    def __init__(self, crowd: Crowd, look: Callable[[], None]) -> None:
        """`look` calls `make`."""
        self._crowd: Final = crowd
        self._look: Final = look
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _LOOK_SECONDS
        self.begun_seconds = _BEGUN_SECONDS
        """For so long at most a head may have begun, or have to begin, and not be whole."""
        self.quiet_seconds = _QUIET_SECONDS
        """For so long a client has asked for nothing more that is let go of."""
        self.stalled: Final = Stalled()

    def somebody_waits(self) -> None:
        """Looks soon, and again for as long as somebody waits."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    def make(
        self,
        listeners: Iterable[Listener],
        connections: Iterable[ClientConnection],
        plane: Plane | None,
        porches: Iterable[Porch] = (),
        *,
        contended: bool,
    ) -> None:
        """Lets go of some of these, and of those of the plane, for each listener at which clients wait in vain."""
        began = time.perf_counter()
        wanted = [listener for listener in listeners if self.is_wanted(listener, contended=contended)]
        stalled = self.stalled.found(connections if wanted else ())
        for listener in wanted:
            if not self.is_wanted(listener, contended=contended):
                continue
            # Nobody leaves for a party that may not have the place: one that has its share gets its own.
            party = listener.party if contended and self._crowd.has_its_share(listener.party) else None
            waiting = _clients_waiting(listener.socket) or self._some
            patience = self._patience(waiting, party)
            of_party = [each for each in connections if party is None or each.listener.party == party]
            # As many as wait: of thousands that are idle the others stay.
            for connection in itertools.islice(self._leaving(of_party, patience), waiting):
                connection.let_go()
            for connection in stalled:
                if party is None or connection.listener.party == party:
                    connection.cut("overloaded")
            for porch in porches if party is None else ():
                porch.let_go(patience)
            if plane is not None:
                plane.make_room(party, first=self._for_first(patience), further=self.quiet_seconds, most=waiting)
        self._pause = max(_LOOK_SECONDS, _PART_OF_LOOKING * (time.perf_counter() - began))
        if wanted:
            self.somebody_waits()

    def is_wanted(self, listener: Listener, *, contended: bool) -> bool:
        """Whether a client waits at this listener and there is no place for it."""
        fd = listener.socket.fileno()
        if fd < 0:
            return False
        closed = self._crowd.full or (contended and self._crowd.has_its_share(listener.party))
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(0)) and (closed or _out_of_descriptors(fd))

    @property
    def _some(self) -> int:
        """So many are let go of at a look where nobody says how many wait: not all of thousands for one."""
        return max(1, self._crowd.everybody // 16)

    def _patience(self, waiting: int, party: object | None) -> float:
        """Seconds that a client has for its first head: fewer, the more others wait for each place that there is.

        Who reopens what was closed for this stands behind all who wait: the queue is through after `_TURN_SECONDS`, or,
        where the queue is very long, after as many times `_LEAST_SECONDS` as it is longer than there are places.
        """
        held = self._crowd.everybody if party is None else self._crowd.held_by(party)
        return min(self.begun_seconds, max(_LEAST_SECONDS, _TURN_SECONDS * held / waiting))

    def _for_first(self, patience: float) -> float:
        """Seconds until the first byte: whoever connects to ask does so at once."""
        return min(patience, self.quiet_seconds)

    def _leaving(self, connections: Iterable[ClientConnection], patience: float) -> Iterator[ClientConnection]:
        """Those whose first head is late, then those that have another one to ask; the longest quiet first."""
        now = asyncio.get_running_loop().time()
        late: list[tuple[float, int, ClientConnection]] = []
        idle: list[tuple[float, int, ClientConnection]] = []
        for place, connection in enumerate(connections):
            if connection.begun:
                seconds, found = patience, late
            elif connection.quiet:
                first = connection.plain is None
                seconds, found = (self._for_first(patience), late) if first else (self.quiet_seconds, idle)
            else:
                continue
            if connection.quiet_since <= now - seconds:
                found.append((connection.quiet_since, place, connection))
        late.sort()
        idle.sort()
        yield from (each for _, _, each in late if is_settled(each.transport))
        yield from (each for _, _, each in idle if is_settled(each.transport, self.quiet_seconds))


def _clients_waiting(listening: socket.socket) -> int:
    """How many wait to be accepted there; 0 where nobody says so: of a Unix socket."""
    if sys.platform != "linux":
        return 0
    try:
        told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)
    except OSError:
        return 0
    return int(_UNACKED.unpack(told)[0])


def _out_of_descriptors(fd: int) -> bool:
    """Whether the process, and with it either gate, can accept nobody."""
    try:
        os.close(os.dup(fd))
    except OSError:
        return True
    return False
