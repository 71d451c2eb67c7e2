"""Who makes room while others wait for a place: clients that are connected and ask for nothing."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterable
from typing import Final

from cloned_proxy.proxy.grants.crowd import Crowd
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.client import Client

_QUIET_SECONDS: Final = 1.0
"""Whoever connects to ask does so at once."""


class Room:
    """Of one gate. A client is never let go of for this while it has begun to ask, or while nobody waits."""

    def __init__(self, crowd: Crowd, places: int) -> None:
        self._crowd: Final = crowd
        self.quiet_seconds = _QUIET_SECONDS
        """For so long a client has asked for nothing that is let go of."""
        self.at_once: Final = max(1, places // 16)
        """So many are let go of at each look: some of thousands that are idle, not all of them for one who waits."""

    def make(
        self,
        listeners: Iterable[Listener],
        clients: Iterable[Client],
        plane: Plane | None,
        *,
        contended: bool,
    ) -> None:
        """Lets go of some of these, and of those of the plane, for each listener at which clients wait in vain."""
        for listener in listeners:
            if self.is_wanted(listener, contended=contended):
                party = None if self._crowd.full else listener.party
                for client in self._quiet(clients, party):
                    client.cut("overloaded")
                if plane is not None:
                    plane.make_room(party, seconds=self.quiet_seconds, most=self.at_once)

    def is_wanted(self, listener: Listener, *, contended: bool) -> bool:
        """Whether a client waits at this listener and there is no place for it."""
        closed = self._crowd.full or (contended and self._crowd.has_its_share(listener.party))
        if not closed or listener.socket.fileno() < 0:
            return False
        waiting = select.poll()
        waiting.register(listener.socket, select.POLLIN)
        return bool(waiting.poll(0))

    def _quiet(self, clients: Iterable[Client], party: object | None) -> list[Client]:
        """Those of this party, or of all, that have been quiet for the longest time."""
        latest = asyncio.get_running_loop().time() - self.quiet_seconds
        found = [
            (client.quiet_since, place, client)
            for place, client in enumerate(clients)
            if client.quiet and (party is None or client.listener.party == party)
        ]
        found.sort()
        return [client for since, _, client in found[: self.at_once] if since <= latest]
