"""What each tool has in use: open flows, requests of the last minute, bytes of the last hour, lease uses.

The numbers are those of all workers together. Only `policy.deciding.decide` says what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Final, Protocol

from cloned_proxy.policy.deciding.decide import Usage, decide_limits
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.proxy.grants.cells import Cells, CellStore, OwnCells

_MINUTE: Final = 60
PLACES: Final = 61
"""Sixty whole steps and the one that has begun: a window is never shorter than it says, and at most a step longer."""


ACCOUNT_WIDTH: Final = 1 + 4 * PLACES
"""Cells of one account: open flows, then the windows of requests and of bytes."""


def account_name(tool: str | None) -> str:
    """Under which its cells are kept."""
    return "anonymous" if tool is None else f"tool {tool}"


class LeaseCounts(Protocol):
    """Uses taken from rules with `max_uses`; survives restarts (the store implements it)."""

    @property
    def spent(self) -> Collection[str]:
        """Ids of rules whose uses are used up; a live view."""

    @property
    def ended(self) -> Collection[str]:
        """Ids of rules whose time is over, though `expires` may lie ahead: the clock was set back. A live view."""

    def take(self, rule: Rule) -> bool:
        """Takes one use as far as this process knows; False when none is left. The commit of its event decides."""

    def give_back(self, rule: Rule) -> None:
        """The use that was taken here did not come about."""

    def exhaust(self, rule: Rule) -> None:
        """Another process took the last use."""


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
        self._account.bytes.add(count)

    def down(self, count: int) -> None:
        """Bytes from the upstream to the caller."""
        self.bytes_down += count
        self._account.bytes.add(count)

    def close(self) -> bool:
        """Gives the place back. True the first time, False afterwards."""
        if not self.open:
            return False
        self.open = False
        self._account.leave()
        return True


class Window:
    """Amounts by step of time over the last sixty steps: a ring of stamps and one of amounts in each worker's row."""

    __slots__ = ("_cells", "_clock", "_mine", "_start", "_step")

    def __init__(self, cells: Cells, start: int, step: int, clock: Callable[[], float]) -> None:
        self._cells = cells
        self._start = start
        self._mine = cells.own * cells.width + start
        self._step = step
        self._clock = clock

    def add(self, amount: int) -> None:
        values, now = self._cells.values, int(self._clock()) // self._step
        stamp = self._mine + now % PLACES
        if values[stamp] != now:
            # In this order a sibling that reads in between sees an old stamp with nothing, never a new one with more.
            values[stamp + PLACES] = 0
            values[stamp] = now
        values[stamp + PLACES] += amount

    def total(self) -> int:
        return sum(amount for _, amount in self._recent())

    def seconds_until(self, limit: int) -> int:
        """Whole seconds until so much has left the window that less than `limit` is in it; at least 1."""
        recent = sorted(self._recent())
        excess = sum(amount for _, amount in recent) - max(limit, 1) + 1
        for stamp, amount in recent:
            excess -= amount
            if excess <= 0:
                return max(1, math.ceil((stamp + PLACES) * self._step - self._clock()))
        return 1

    def _recent(self) -> list[tuple[int, int]]:
        cells, oldest = self._cells, int(self._clock()) // self._step - PLACES + 1
        found: list[tuple[int, int]] = []
        for row in range(self._start, cells.width * cells.workers, cells.width):
            stamps, amounts = cells.values[row : row + PLACES], cells.values[row + PLACES : row + 2 * PLACES]
            found += [(stamp, amount) for stamp, amount in zip(stamps, amounts, strict=True) if stamp >= oldest]
        return found


class _Account:
    """Cell 0 of a row counts the worker's open flows; the windows of requests and of bytes follow it."""

    __slots__ = ("_cells", "_mine", "bytes", "requests")

    def __init__(self, cells: Cells, clock: Callable[[], float]) -> None:
        self._cells = cells
        self._mine = cells.own * cells.width
        self.requests = Window(cells, 1, 1, clock)
        self.bytes = Window(cells, 1 + 2 * PLACES, _MINUTE, clock)

    def enter(self, decision: Decision, limits: Limits) -> Decision:
        """Counts one request and one open flow, unless the limits refuse them."""
        with self._cells.turn:
            decision = decide_limits(decision, limits, self.usage(limits))
            if decision.passes:
                self.requests.add(1)
                self._cells.values[self._mine] += 1
        return decision

    def adopt(self) -> None:
        self._cells.values[self._mine] += 1

    def leave(self) -> None:
        self._cells.values[self._mine] -= 1

    def usage(self, limits: Limits | None) -> Usage:
        """What the limits ask for, all of it without them: the windows take ten times as long as the rest."""
        return Usage(
            sum(self._cells.column(0)),
            self.requests.total() if limits is None or limits.requests_per_minute is not None else 0,
            self.bytes.total() if limits is None or limits.bytes_per_hour is not None else 0,
        )

    def retry_after(self, limits: Limits) -> int:
        """Whole seconds until a request may pass again, as far as that can be known; at least 1."""
        wait = 1
        if limits.requests_per_minute is not None and self.requests.total() >= limits.requests_per_minute:
            wait = self.requests.seconds_until(limits.requests_per_minute)
        if limits.bytes_per_hour is not None and self.bytes.total() >= limits.bytes_per_hour:
            wait = max(wait, self.bytes.seconds_until(limits.bytes_per_hour))
        return wait


class WholeLimits:
    """Whose limits these are: of this proxy alone. `shares.Shares` has another answer, for a fleet."""

    counts: Callable[[str, Limits], Usage] = staticmethod(lambda _tool, _limits: Usage(0, 0, 0))
    """What a tool uses here, as the budgets know it."""

    async def run(self) -> None:
        """What there is to do beside traffic, until cancelled."""

    def limits_of(self, tool: str | None, limits: Limits) -> Limits:  # noqa: ARG002  every tool has all of them
        """What of the limits this proxy may use up by itself."""
        return limits

    def are_of(self, tool: str | None) -> bool:  # noqa: ARG002  of none
        """Whether the limits of this tool are shared, and what it may use here changes from moment to moment."""
        return False

    def may_grow(self, tool: str | None) -> bool:  # noqa: ARG002  there is no more
        """Whether a request over these limits is worth a question for more."""
        return False

    async def more(self, tool: str | None) -> None:
        """Asks for more; returns when there is an answer."""

    def has_lost(self, tool: str | None) -> bool:  # noqa: ARG002  nobody takes it away
        """Whether open flows of the tool must end, because others may have their places by now."""
        return False


class Budgets:
    """The accounts of all tools. `clock` is monotonic: a wall clock set back must not refill a budget."""

    def __init__(
        self, clock: Callable[[], float], store: CellStore | None = None, shares: WholeLimits | None = None
    ) -> None:
        """`store` says with whom the accounts are shared; nobody by default. `shares` are those of a fleet."""
        self._clock = clock
        self.shares: Final = shares or WholeLimits()
        self.shares.counts = self.usage
        self._store: CellStore = store or OwnCells()
        self._accounts: dict[str | None, _Account] = {}

    def usage(self, tool: str | None, limits: Limits | None = None) -> Usage:
        """What the tool uses now; with `limits`, only the numbers that they bound."""
        return self._account(tool).usage(limits)

    def open(self, decision: Decision, tool: str | None, limits: Limits) -> tuple[Decision, Charge | None]:
        """Counts one request and one open flow of the tool, or refuses the decision: in one step over all workers."""
        if not decision.passes:
            return decision, None
        account = self._account(tool)
        decision = account.enter(decision, self.shares.limits_of(tool, limits))
        return decision, Charge(account) if decision.passes else None

    def adopt(self, tool: str | None, *, up: int) -> Charge:
        """Takes over a flow that somebody else has opened, and that has brought `up` bytes so far, counted already."""
        account = self._account(tool)
        account.adopt()
        charge = Charge(account)
        charge.bytes_up = up
        return charge

    def seen(self, tool: str | None, *, up: int, down: int) -> Charge:
        """What a flow has brought that is counted elsewhere: to be shown, not to be counted on."""
        charge = Charge(self._account(tool))
        charge.bytes_up, charge.bytes_down, charge.open = up, down, False
        return charge

    def retry_after(self, tool: str | None, limits: Limits) -> int:
        return self._account(tool).retry_after(self.shares.limits_of(tool, limits))

    def _account(self, tool: str | None) -> _Account:
        # Bounded: a tool name comes from a signed token or a listener, never from a caller's free text.
        account = self._accounts.get(tool)
        if account is None:
            cells = self._store.open(account_name(tool), ACCOUNT_WIDTH)
            account = self._accounts[tool] = _Account(cells, self._clock)
        return account
