"""How many refusals of one caller are recorded one by one, and how fast the caller gets the others.

Nobody needs a credential to be refused. So a loop of refused calls is all that a caller has to run who wants to fill
the log or keep the proxy from others. Over its budget a caller's refusals take their turn (`Turnstile`), at a rate that
costs the proxy little of its time, and the log has their number. Calls that pass are neither counted nor kept waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from cloned_proxy.proxy.grants.budget import PLACES, Window
from cloned_proxy.proxy.grants.cells import Cells, CellStore, OwnCells

DENIALS_PER_MINUTE: Final = 600
_TURN_SECONDS: Final = 0.01
_AT_A_TURN: Final = 4
"""Refusals at one turn of the timer. They make 400 a second: a tenth of what one CPU can refuse."""
_MOST_WAITING: Final = 5000
"""Who would be one more is answered at once."""


ACCOUNT_WIDTH: Final = 1 + 2 * PLACES


def account_name(tool: str | None) -> str:
    """Name of the shared cells that count the refusals of a caller."""
    return "denials" if tool is None else f"denials {tool}"


class Turnstile:
    """Lets one caller's refusals through in the order in which they came. On one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def turn(self) -> None:
        """Returns when it is this one's turn."""
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._waiting.append(mine)
        if self._timer is None:
            self._timer = loop.call_later(_TURN_SECONDS, self._let_through)
        await mine

    def _let_through(self) -> None:
        self._timer = None
        passed = 0
        while self._waiting and passed < _AT_A_TURN:
            first = self._waiting.popleft()
            if not first.done():  # else its client has left
                first.set_result(None)
                passed += 1
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_TURN_SECONDS, self._let_through)


class _DenialAccount:
    """What one caller has been refused in the last minute, by all workers and the native plane."""

    __slots__ = ("over_until", "second", "total", "turn", "turnstile", "window")

    def __init__(self, cells: Cells, clock: Callable[[], float]) -> None:
        self.window = Window(cells, 1, 1, clock)
        self.turn = cells.turn
        self.turnstile = Turnstile()
        self.second = -1
        self.total = 0
        self.over_until = 0.0


class DenialBudget:
    """The accounts of all callers; `tool` None is that of all who have no valid credential."""

    def __init__(
        self,
        clock: Callable[[], float],
        store: CellStore | None = None,
        *,
        per_minute: int = DENIALS_PER_MINUTE,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        """`clock` is monotonic. Of all callers together `most_waiting` wait for their turn; others are answered now.

        Connections that wait must not take the places of those that pass.

        `per_minute` is for whoever has no limit of its own. `store` as for `Budgets`.
        """
        self._clock: Final = clock
        self._store: Final[CellStore] = store or OwnCells()
        self._per_minute: Final = per_minute
        self._most_waiting: Final = most_waiting
        self._waiting = 0
        self._accounts: Final[dict[str | None, _DenialAccount]] = {}

    def over(self, tool: str | None) -> bool:
        """Whether this caller was over its budget within the last second."""
        account = self._accounts.get(tool)
        return account is not None and self._clock() < account.over_until

    def spend(self, tool: str | None, limit: int | None) -> int | None:
        """Counts one refusal; None, unless the caller has no budget left: then in how many seconds it has some again.

        What comes over the budget is not counted.
        """
        account, now, most = self._account(tool), self._clock(), self.most(limit)
        if account.total < most or int(now) != account.second:  # who is over the budget asks often
            with account.turn:  # the native plane and the other workers count as well
                account.second, account.total = int(now), account.window.total()
                if account.total < most:
                    account.window.add(1)
                    account.total += 1
                    return None
        account.over_until = now + 1.0
        return account.window.seconds_until(most)

    def most(self, limit: int | None) -> int:
        """In a minute, of a caller whose policy says `limit`."""
        return limit or self._per_minute

    async def turn(self, tool: str | None) -> None:
        """Returns when it is the turn of this caller's next refusal over its budget."""
        if self._waiting >= self._most_waiting:
            return
        self._waiting += 1
        try:
            await self._account(tool).turnstile.turn()
        finally:
            self._waiting -= 1

    def waiting(self, tool: str | None) -> int:
        """How many wait for their turn."""
        return len(self._account(tool).turnstile)

    def _account(self, tool: str | None) -> _DenialAccount:
        # Bounded: a tool name comes from a signed token or a listener, never from a caller's free text.
        account = self._accounts.get(tool)
        if account is None:
            cells = self._store.open(account_name(tool), ACCOUNT_WIDTH)
            account = self._accounts[tool] = _DenialAccount(cells, self._clock)
        return account
