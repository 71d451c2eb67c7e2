"""Who has how many events waiting for the audit writer, and who has to wait for it.

The rule, for people: while less than half of `audit.queue` is taken nobody waits. Above that, whoever has more than an
equal share of that half waits until what is queued is on disk. So a caller that floods the log waits for the disk, and
everybody else does not wait for that caller.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

type Owner = str | None
"""Whose request caused an event: a tool's id, or None for callers without a proven name and for the proxy itself."""


class Backlog:
    """Counts without a lock: the event loop alone writes what came, the writer's thread alone writes what went.

    Each side may see the other's counts a moment late. That shifts the point at which a caller waits by a few events,
    and nothing else hangs on it.
    """

    def __init__(self, queue: int) -> None:
        """`queue` is a number of events; half of it is what callers may have waiting before anybody is held up."""
        self._calm = max(1, queue // 2)
        self._came: defaultdict[Owner, int] = defaultdict(int)
        self._went: defaultdict[Owner, int] = defaultdict(int)
        self._total_came = 0
        self._total_went = 0

    def grew(self, owner: Owner) -> None:
        """One event more. Called where events are queued, on one thread."""
        self._came[owner] += 1
        self._total_came += 1

    def shrank(self, owners: Iterable[Owner]) -> None:
        """These are settled: on disk, or refused. Called on the writer's thread."""
        for owner in owners:
            self._went[owner] += 1
            self._total_went += 1

    def behind(self, owner: Owner) -> bool:
        """Whether this caller has more than its share of a long queue."""
        if self._total_came - self._total_went < self._calm:
            return False
        waiting = {who: came - self._went.get(who, 0) for who, came in self._came.items()}
        parties = sum(count > 0 for count in waiting.values())
        return waiting.get(owner, 0) * parties >= self._calm
