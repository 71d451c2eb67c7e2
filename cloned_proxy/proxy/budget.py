"""What each tool has in use: open flows, requests of the last minute, bytes of the last hour, lease uses.

Counters of one process, on the event loop. Only `policy.decide` says what the numbers mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Protocol

from cloned_proxy.policy.decide import Usage
from cloned_proxy.policy.model import Limits, Rule

_MINUTE: Final = 60.0
_MINUTES_AN_HOUR: Final = 60


class LeaseLedger(Protocol):
    """Uses taken from rules with `max_uses`; survives restarts (the store implements it)."""

    @property
    def spent(self) -> Collection[str]:
        """Ids of rules whose uses are used up; a live view."""

    def take(self, rule: Rule) -> bool:
        """Takes one use; False when none is left."""


class Charge:
    """What one flow takes from its tool's budget while it lasts. The relay adds bytes as they pass."""

    __slots__ = ("_account", "bytes_down", "bytes_up", "open")

    def __init__(self, account: _Account) -> None:
        self._account = account
        self.bytes_up = 0
        self.bytes_down = 0
        self.open = True

    def up(self, count: int) -> None:
        """Bytes from the caller to the upstream."""
        self.bytes_up += count
        self._account.add_bytes(count)

    def down(self, count: int) -> None:
        """Bytes from the upstream to the caller."""
        self.bytes_down += count
        self._account.add_bytes(count)

    def close(self) -> bool:
        """Gives the place back. True the first time, False afterwards."""
        if not self.open:
            return False
        self.open = False
        self._account.concurrent -= 1
        return True


class _Account:
    __slots__ = ("_byte_minutes", "_clock", "_requests", "concurrent")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.concurrent = 0
        self._requests: deque[float] = deque()
        # One [minute, bytes] pair a minute that saw traffic: an hour needs at most 61 of them.
        self._byte_minutes: deque[list[int]] = deque()

    def add_request(self) -> None:
        self._forget_old()
        self._requests.append(self._clock())

    def add_bytes(self, count: int) -> None:
        minute = int(self._clock() // _MINUTE)
        if self._byte_minutes and self._byte_minutes[-1][0] == minute:
            self._byte_minutes[-1][1] += count
        else:
            self._byte_minutes.append([minute, count])
            self._forget_old()

    def usage(self) -> Usage:
        self._forget_old()
        return Usage(self.concurrent, len(self._requests), sum(count for _, count in self._byte_minutes))

    def retry_after(self, limits: Limits) -> int:
        """Whole seconds until a request may pass again, as far as that can be known; at least 1."""
        self._forget_old()
        if limits.requests_per_minute is not None and len(self._requests) >= limits.requests_per_minute:
            oldest = self._requests[-limits.requests_per_minute] if limits.requests_per_minute else self._requests[0]
            return max(1, int(oldest + _MINUTE - self._clock()) + 1)
        if limits.bytes_per_hour is not None and self._byte_minutes:
            return max(1, int((self._byte_minutes[0][0] + _MINUTES_AN_HOUR) * _MINUTE - self._clock()) + 1)
        return 1

    def _forget_old(self) -> None:
        now = self._clock()
        while self._requests and self._requests[0] <= now - _MINUTE:
            self._requests.popleft()
        while self._byte_minutes and self._byte_minutes[0][0] <= now // _MINUTE - _MINUTES_AN_HOUR:
            self._byte_minutes.popleft()


class Budgets:
    """The accounts of all tools. `clock` is monotonic: a wall clock set back must not refill a budget."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._accounts: dict[str | None, _Account] = {}

    def usage(self, tool: str | None) -> Usage:
        return self._account(tool).usage()

    def open(self, tool: str | None) -> Charge:
        """Counts one request and one open flow of the tool. The caller asked `usage` and `decide_limits` first."""
        account = self._account(tool)
        account.add_request()
        account.concurrent += 1
        return Charge(account)

    def retry_after(self, tool: str | None, limits: Limits) -> int:
        return self._account(tool).retry_after(limits)

    def _account(self, tool: str | None) -> _Account:
        # Bounded: a tool name comes from a signed token or a listener, never from a caller's free text.
        account = self._accounts.get(tool)
        if account is None:
            account = self._accounts[tool] = _Account(self._clock)
        return account
