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
from cloned_proxy.proxy.grants.cells import CellStore, OwnCells

DENIALS_PER_MINUTE: Final = 600
_TURN_SECONDS: Final = 0.01
_AT_A_TURN: Final = 4
"""Refusals at one turn of the timer. They make 400 a second: a tenth of what one CPU can refuse."""
_MOST_WAITING: Final = 5000
"""Who would be one more is answered at once: connections that wait must not take the place of others."""


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
        if len(self._waiting) >= _MOST_WAITING:
            return
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
    """What one caller has been refused in the last minute, by all workers. Their counts are looked at once a second."""

    __slots__ = ("over_until", "second", "total", "turnstile", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.turnstile = Turnstile()
        self.second = -1
        self.total = 0
        self.over_until = 0.0


class DenialBudget:
    """The accounts of all callers; `tool` None is that of all who have no valid credential."""

    def __init__(
        self, clock: Callable[[], float], store: CellStore | None = None, *, per_minute: int = DENIALS_PER_MINUTE
    ) -> None:
        """`clock` is monotonic. `per_minute` is for whoever has no limit of its own. `store` as for `Budgets`."""
        self._clock: Final = clock
        self._store: Final[CellStore] = store or OwnCells()
        self._per_minute: Final = per_minute
        self._accounts: Final[dict[str | None, _DenialAccount]] = {}

    def over(self, tool: str | None) -> bool:
        """Whether this caller was over its budget within the last second."""
        account = self._accounts.get(tool)
        return account is not None and self._clock() < account.over_until

    def spend(self, tool: str | None, limit: int | None) -> int | None:
        """Counts one refusal; None, unless the caller has no budget left: then in how many seconds it has some again.

        What comes over the budget is not counted.
        """
        account, now = self._account(tool), self._clock()
        if int(now) != account.second:
            account.second, account.total = int(now), account.window.total()
        most = self.most(limit)
        if account.total >= most:
            account.over_until = now + 1.0
            return account.window.seconds_until(most)
        account.window.add(1)
        account.total += 1
        return None

    def most(self, limit: int | None) -> int:
        """In a minute, of a caller whose policy says `limit`."""
        return limit or self._per_minute

    async def turn(self, tool: str | None) -> None:
        """Returns when it is the turn of this caller's next refusal over its budget."""
        await self._account(tool).turnstile.turn()

    def waiting(self, tool: str | None) -> int:
        """How many wait for their turn."""
        return len(self._account(tool).turnstile)

    def _account(self, tool: str | None) -> _DenialAccount:
        # Bounded: a tool name comes from a signed token or a listener, never from a caller's free text.
        account = self._accounts.get(tool)
        if account is None:
            window = Window(self._store.open(account_name(tool), ACCOUNT_WIDTH), 1, 1, self._clock)
            account = self._accounts[tool] = _DenialAccount(window)
        return account
