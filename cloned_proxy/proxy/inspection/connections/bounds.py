"""What one peer may cost: numbers that a well-behaved one never meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_STREAMS: Final = 100
"""At once on one connection (RFC 9113, section 6.5.2, advises no less). The library ends one that opens more."""
STREAM_WINDOW: Final = 131_072
"""Bytes that a sender may have under way on one stream, to begin with."""
GROWN_WINDOW: Final = 1_048_576
"""What the window of a stream may grow to whose reader takes everything at once."""
GROWTH: Final = 8_388_608
"""The most by which all windows of one connection may have grown together."""
CONNECTION_WINDOW: Final = MAX_STREAMS * STREAM_WINDOW + GROWTH
"""So large that the windows of the streams are what holds a sender: a stream whose reader is slow starves no other."""
HEADER_TABLE: Final = 4096
"""Bytes of either HPACK table, whatever the peer would like (RFC 7541, section 4.2)."""
UNSENT: Final = 1_048_576
"""Bytes that may wait for a peer that does not read; more, and the connection ends."""
MAX_REQUESTS: Final = 10_000
"""On one client connection; then it is told to come again. The library remembers each stream that there was."""


class Calm:
    """Events that cost us and bring a peer nothing, within a rate (a token bucket)."""

    __slots__ = ("_at", "_burst", "_clock", "_left", "_rate")

    def __init__(self, *, burst: int, rate: float, clock: Callable[[], float]) -> None:
        self._burst: Final = burst
        self._rate: Final = rate
        """Events for each second."""
        self._clock: Final = clock
        self._left = float(burst)
        self._at = clock()

    def spend(self) -> bool:
        """False when there have been too many."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return self._left >= 0
