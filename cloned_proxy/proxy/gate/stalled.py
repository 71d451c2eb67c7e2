"""Who holds a place by not reading: of clients that are not served any more, those that take next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from cloned_proxy.proxy.transport.settled import unsent
from cloned_proxy.proxy.tunnel.connection import ClientConnection

_SECONDS: Final = 2.0
_RATE: Final = 8192
"""Bytes a second. Who takes less of its last answer, looked at for so many seconds, does not get the rest of it while
others wait."""


class Stalled:
    """Of one gate, which asks again and again while clients wait for a place."""

    def __init__(self) -> None:
        self.seconds = _SECONDS
        self._seen: dict[ClientConnection, tuple[int, float]] = {}
        """What waited for each that is not served any more, in bytes, and when that was looked at."""

    def found(self, connections: Iterable[ClientConnection]) -> list[ClientConnection]:
        """Those of these, which are all, that take too little of the answers that are the last thing they are here for.

        None where nobody waits: then the time begins anew.
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
