"""Who makes room while others wait for a place: clients that are connected and ask for nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
from collections.abc import Iterable
from typing import Final

from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.grants.crowd import Crowd
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.settled import is_settled, unsent
from cloned_proxy.proxy.tunnel.connection import ClientConnection

_QUIET_SECONDS: Final = 1.0
"""Whoever connects to ask does so at once."""
_BEGUN_SECONDS: Final = 2.0
"""A head of a client that means it has come by then; one that is fed byte by byte is given up for who waits."""
_STALLED_SECONDS: Final = 2.0
_STALLED_RATE: Final = 8192
"""Bytes a second. Who takes less of its last answer, looked at for so many seconds, does not get the rest of it while
others wait: it would hold its place by not reading."""


class Room:
    """Of one gate. A client is never let go of for this while it is served, or while nobody waits."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd: Final = crowd
        self.begun_seconds = _BEGUN_SECONDS
        """For so long a head may have begun and not be whole."""
        self.quiet_seconds = _QUIET_SECONDS
        """For so long a client has asked for nothing that is let go of."""
        self.stalled_seconds = _STALLED_SECONDS
        self._unsent: dict[ClientConnection, tuple[int, float]] = {}
        """What waited for a client that is not served any more, and when that was looked at; while others wait."""

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
        wanted = [listener for listener in listeners if self.is_wanted(listener, contended=contended)]
        stalled = self._stalled(connections if wanted else ())
        for listener in wanted:
            if self.is_wanted(listener, contended=contended):
                # Nobody leaves for a party that may not have the place: one that has its share gets its own.
                party = listener.party if contended and self._crowd.has_its_share(listener.party) else None
                of_party = [each for each in connections if party is None or each.listener.party == party]
                for connection in (*self._begun(of_party), *self._quiet(of_party)):
                    connection.let_go()
                for connection in stalled:
                    if party is None or connection.listener.party == party:
                        connection.cut("overloaded")
                for porch in porches if party is None else ():
                    porch.let_go(self.begun_seconds)
                if plane is not None:
                    plane.make_room(party, seconds=self.quiet_seconds, most=self._at_once)

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
    def _at_once(self) -> int:
        """So many are let go of at each look: some of thousands that are idle, not all of them for one who waits."""
        return max(1, self._crowd.everybody // 16)

    def _begun(self, connections: Iterable[ClientConnection]) -> list[ClientConnection]:
        """All whose head is late: they have no claim to a place that somebody waits for."""
        latest = asyncio.get_running_loop().time() - self.begun_seconds
        late = (each for each in connections if each.begun and each.quiet_since <= latest)
        return [each for each in late if is_settled(each.transport)]

    def _stalled(self, connections: Iterable[ClientConnection]) -> list[ClientConnection]:
        """Those that take next to nothing of the answers that are the last thing they are here for."""
        now, before, stalled = asyncio.get_running_loop().time(), self._unsent, []
        self._unsent = {}
        for each in connections:
            if not each.over or not (left := unsent(each.transport)):
                continue
            then, since = before.get(each, (left, now))
            seconds = now - since
            if left <= then and seconds >= self.stalled_seconds:
                if then - left <= seconds * _STALLED_RATE:
                    stalled.append(each)
                then, since = left, now
            elif left > then:  # it has been answered once more
                then, since = left, now
            self._unsent[each] = then, since
        return stalled

    def _quiet(self, connections: Iterable[ClientConnection]) -> list[ClientConnection]:
        """Those that have been quiet for the longest time."""
        latest = asyncio.get_running_loop().time() - self.quiet_seconds
        found = [
            (connection.quiet_since, place, connection)
            for place, connection in enumerate(connections)
            if connection.quiet
        ]
        found.sort()
        long_enough = (connection for since, _, connection in found if since <= latest)
        settled = (each for each in long_enough if is_settled(each.transport, self.quiet_seconds))
        return list(itertools.islice(settled, self._at_once))


def _out_of_descriptors(fd: int) -> bool:
    """Whether the process, and with it either gate, can accept nobody."""
    try:
        os.close(os.dup(fd))
    except OSError:
        return True
    return False
