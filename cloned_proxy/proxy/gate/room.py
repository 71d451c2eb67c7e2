"""Who makes room while others wait for a place: clients that are connected and ask for nothing."""

from __future__ import annotations

import asyncio
import itertools
import select
from collections.abc import Iterable
from typing import Final

from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.gate.siblings import Siblings
from cloned_proxy.proxy.grants.crowd import Crowd
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.transport.descriptors import are_scarce
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.settled import is_settled
from cloned_proxy.proxy.tunnel.connection import ClientConnection

_QUIET_SECONDS: Final = 1.0
"""Whoever connects to ask does so at once."""
_BEGUN_SECONDS: Final = 2.0
"""A head of a client that means it has come by then; one that is fed byte by byte is given up for who waits."""


class Room:
    """Of one gate. A client is never let go of for this while it is served, or while nobody waits."""

    def __init__(self, crowd: Crowd, siblings: Siblings) -> None:
        self._crowd: Final = crowd
        self._siblings: Final = siblings
        self.begun_seconds = _BEGUN_SECONDS
        """For so long a head may have begun and not be whole."""
        self.quiet_seconds = _QUIET_SECONDS
        """For so long a client has asked for nothing that is let go of."""

    def make(
        self,
        listeners: Iterable[Listener],
        connections: Iterable[ClientConnection],
        plane: Plane | None,
        porches: Iterable[Porch] = (),
        *,
        contended: bool,
    ) -> None:
        """Lets go of some of these, and of those of the plane, for each party whose clients wait in vain."""
        for party in self._waiting(listeners, contended=contended):
            of_party = [each for each in connections if party is None or each.listener.party == party]
            for connection in (*self._begun(of_party), *self._quiet(of_party)):
                connection.let_go()
            for porch in porches if party is None else ():
                porch.let_go(self.begun_seconds)
            if plane is not None:
                plane.make_room(party, seconds=self.quiet_seconds, most=self._at_once)

    def _waiting(self, listeners: Iterable[Listener], *, contended: bool) -> list[object | None]:
        """For whom there is to be room: a party that has its share gets its own; None is all who may have any place.

        Nobody leaves for a party that may not have the place.
        """
        wanted = [each.party for each in listeners if self.is_wanted(each, contended=contended)]
        keeps_to_itself = [contended and self._crowd.has_its_share(party) for party in wanted]
        self._siblings.wait(waiting=self._crowd.full and not all(keeps_to_itself))
        parties = [party if own else None for party, own in zip(wanted, keeps_to_itself, strict=True)]
        asked_by_others = self._crowd.full and self._siblings.somebody_waits and None not in parties
        return [*parties, None] if asked_by_others else parties

    def is_wanted(self, listener: Listener, *, contended: bool) -> bool:
        """Whether a client waits at this listener and there is no place for it."""
        fd = listener.socket.fileno()
        if fd < 0:
            return False
        closed = self._crowd.full or (contended and self._crowd.has_its_share(listener.party))
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(0)) and (closed or are_scarce(fd))

    @property
    def _at_once(self) -> int:
        """So many are let go of at each look: some of thousands that are idle, not all of them for one who waits."""
        return max(1, self._crowd.everybody // 16)

    def _begun(self, connections: Iterable[ClientConnection]) -> list[ClientConnection]:
        """All whose head is late: they have no claim to a place that somebody waits for."""
        latest = asyncio.get_running_loop().time() - self.begun_seconds
        late = (each for each in connections if each.begun and each.quiet_since <= latest)
        return [each for each in late if is_settled(each.transport)]

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
