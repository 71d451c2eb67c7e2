"""Who makes room while others wait for a place: clients that are connected and ask for nothing."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.gate.siblings import Siblings
from cloned_proxy.proxy.gate.stalled import Stalled
from cloned_proxy.proxy.grants.connection_cap import ConnectionCap
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.transport.descriptors import are_scarce
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.settled import is_settled
from cloned_proxy.proxy.tunnel.client import Client

_QUIET_SECONDS: Final = 1.0
"""Seconds between two requests: a client that asks again so soon need not connect anew."""
_BEGUN_SECONDS: Final = 1.0
"""Seconds in which an honest client has sent its head; a head that is fed byte by byte is given up for others."""
_LEAST_SECONDS: Final = 0.05
"""Seconds that every client has for the first head, however many wait."""
_TURN_SECONDS: Final = 0.5
"""Seconds after which all who wait have had a place, if nothing but unfinished heads is in the way."""
_LOOK_SECONDS: Final = 0.05
"""Seconds between two looks while somebody waits; more where a look at thousands of connections takes long."""
_PART_OF_LOOKING: Final = 20
"""At most one part in so many of the time is spent on looking."""
_UNACKED: Final = struct.Struct("24xI")
"""`tcpi_unacked` of `struct tcp_info` (linux/tcp.h): at a listening socket, how many wait to be accepted."""


class Room:
    """Makes room for one gate. No client is let go of while being served, or while nobody waits."""

    def __init__(self, cap: ConnectionCap, siblings: Siblings, look: Callable[[], None]) -> None:
        """`look` calls `make`."""
        self._cap: Final = cap
        self._siblings: Final = siblings
        self._look: Final = look
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _LOOK_SECONDS
        self.begun_seconds = _BEGUN_SECONDS
        """Seconds at most until a head that has begun, or has to begin, must be whole."""
        self.quiet_seconds = _QUIET_SECONDS
        """Seconds for which a client must have asked for nothing before being let go of."""
        self.stalled: Final = Stalled()
        self._in_hand: Final[Counter[Listener]] = Counter()
        """By the listener through which they are to come, those who wait and have been accepted already."""

    def somebody_waits(self) -> None:
        """Looks soon, and again for as long as somebody waits."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._look_again)

    def in_hand(self, listener: Listener, more: int) -> None:
        """So many more, or fewer, wait for a place who were accepted already: the kernel tells of them no more."""
        self._in_hand[listener] += more
        if not self._in_hand[listener]:
            del self._in_hand[listener]

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    def make(
        self,
        listeners: Iterable[Listener],
        connections: Iterable[Client],
        plane: Plane | None,
        porches: Iterable[Porch] = (),
        *,
        contended: bool,
    ) -> None:
        """Lets go of some of these, and of those of the plane, for each listener at which clients wait in vain."""
        began = time.perf_counter()
        everywhere = dict.fromkeys((*listeners, *self._in_hand))
        wanted = [listener for listener in everywhere if self.is_wanted(listener, contended=contended)]
        asked = self._told(wanted, contended=contended)
        stalled = self.stalled.found(connections if wanted or asked else ())
        for listener in (*wanted, *asked):
            if listener is not None and not self.is_wanted(listener, contended=contended):
                continue
            party = None if listener is None else self._for_whom(listener, contended=contended)
            waiting = (0 if listener is None else self._clients_waiting(listener)) or self._some
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
        if wanted or asked:
            self.somebody_waits()

    def _for_whom(self, listener: Listener, *, contended: bool) -> object | None:
        """The party whose clients make room there; None is all of them.

        Nobody leaves for a party that may not have the place: one that has its share gets its own.
        """
        return listener.party if contended and self._cap.has_its_share(listener.party) else None

    def _told(self, wanted: Iterable[Listener], *, contended: bool) -> tuple[None, ...]:
        """Tells the other workers whether any client may make room for one who waits here; `(None,)`: one of them asks.

        Where clients of this worker make room for all already, that is enough.
        """
        of_all = any(self._for_whom(each, contended=contended) is None for each in wanted)
        self._siblings.wait(waiting=self._cap.full and of_all)
        return (None,) if self._cap.full and self._siblings.somebody_waits and not of_all else ()

    def is_wanted(self, listener: Listener, *, contended: bool) -> bool:
        """Whether a client waits at this listener and there is no place for it."""
        fd = listener.socket.fileno()
        if fd < 0:
            return False
        closed = self._cap.full or (contended and self._cap.has_its_share(listener.party))
        if self._in_hand[listener]:
            return closed
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(0)) and (closed or are_scarce(fd))

    def _clients_waiting(self, listener: Listener) -> int:
        """How many wait there; 0 where nobody says so."""
        return self._in_hand[listener] or _clients_waiting(listener.socket)

    @property
    def _some(self) -> int:
        """So many are let go of at a look where nobody says how many wait: not all of thousands for one."""
        return max(1, self._cap.everybody // 16)

    def _patience(self, waiting: int, party: object | None) -> float:
        """Seconds that a client has for its first head: fewer, the more others wait for each place that there is.

        Who reopens what was closed for this stands behind all who wait: the queue is through after `_TURN_SECONDS`, or,
        where the queue is very long, after as many times `_LEAST_SECONDS` as it is longer than there are places.
        """
        held = self._cap.everybody if party is None else self._cap.held_by(party)
        return min(self.begun_seconds, max(_LEAST_SECONDS, _TURN_SECONDS * held / waiting))

    def _for_first(self, patience: float) -> float:
        """Seconds until the first byte: whoever connects to ask does so at once."""
        return min(patience, self.quiet_seconds)

    def _leaving(self, connections: Iterable[Client], patience: float) -> Iterator[Client]:
        """Those whose first head is late, then those that have another one to ask; the longest quiet first."""
        now = asyncio.get_running_loop().time()
        late: list[tuple[float, int, Client]] = []
        idle: list[tuple[float, int, Client]] = []
        for place, connection in enumerate(connections):
            if connection.begun:
                seconds, found = patience, late
            elif connection.quiet:
                first = connection.owner is None
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
