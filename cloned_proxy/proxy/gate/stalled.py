"""Who holds a place by not reading: of clients that are not served any more, those that take next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from cloned_proxy.proxy.transport.settled import unsent
from cloned_proxy.proxy.tunnel.client import Client

_SECONDS: Final = 2.0
_RATE: Final = 8192
"""Bytes a second. A client that takes less of the last answer, looked at for `_SECONDS`, loses the rest while others
wait."""


class Stalled:
    """Asked by one gate, again and again while clients wait for a place."""

    def __init__(self) -> None:
        self.seconds = _SECONDS
        self._seen: dict[Client, tuple[int, float]] = {}
        """Bytes that waited for each client that is not served any more, and when they were counted."""

    def found(self, connections: Iterable[Client]) -> list[Client]:
        """The clients among `connections` (all there are) that take too little of their last answer.

        Called with none while nobody waits: then the time begins anew.
        """
        now, before, stalled = asyncio.get_running_loop().time(), self._seen, []
        self._seen = {}
        for each in connections:
            if not each.over or not (left := unsent(each.transport)):
                continue
            then, since = before.get(each, (left, now))
            if left > then:  # it has been answered once more
                then, since = left, now
            elif now - since >= self.seconds:
                if then - left <= (now - since) * _RATE:
                    stalled.append(each)
                then, since = left, now
            self._seen[each] = then, since
        return stalled
