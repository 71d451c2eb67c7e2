"""How much is taken in, and remembered, of what anybody may send without end."""

from __future__ import annotations

from cloned_proxy.fleet.approvals.request_store import MOST


class Allowance:
    """So many at once, and so many more each minute (a token bucket)."""

    def __init__(self, most: int, a_minute: float) -> None:
        self._most, self._a_second = most, a_minute / 60
        self._left, self._at = float(most), float("-inf")

    def has_any(self, now: float) -> bool:
        """`now` is uptime in seconds."""
        if now > self._at:
            self._left = min(self._most, self._left + (now - self._at) * self._a_second)
            self._at = now
        return self._left >= 1

    def take(self, now: float) -> bool:
        """Takes one; whether there is another."""
        self._left -= 1
        return self.has_any(now)


class Remembered:
    """The last ones of any number."""

    def __init__(self) -> None:
        self._all: dict[str, None] = {}

    def __contains__(self, one: str) -> bool:
        return one in self._all

    def add(self, one: str) -> None:
        self._all[one] = None
        if len(self._all) > 2 * MOST:
            del self._all[next(iter(self._all))]
