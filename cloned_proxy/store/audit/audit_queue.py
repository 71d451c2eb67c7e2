"""What waits for the audit writer: events in the order in which they came, and denials that are one entry with a count.

A group of the writer takes everything at once. Until then an equal denial of the same caller counts one up instead of
waiting beside the first: a caller that asks for the same again and again fills neither the queue nor the disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final

from cloned_proxy.store.audit.audit_backlog import Backlog, Owner
from cloned_proxy.telemetry.combined import finished, repeated, repeated_id
from cloned_proxy.telemetry.events import WHOLE, DecisionEvent, FlowEnd, Kind

GATHER_SECONDS: Final = 1.0
"""Most seconds for which a summary of denials (`put_denial(summary=True)`) is counted on before it is written."""

_ALLOW: Final = "allow"
_MARKS: Final = attrgetter(
    "tool",
    "host",
    "port",
    "method",
    "path",
    "reason",
    "run",
    "kind",
    "rule",
    "policy",
    "hint",
    "refused_address",
    "source_address",
)
"""What makes two denials equal: everything but the id and the time."""


class _Run:
    """Equal denials. Counted on by the event loop, until the writer's thread takes it."""

    __slots__ = ("count", "due", "event", "last", "owner")

    def __init__(self, event: DecisionEvent, owner: Owner, due: float) -> None:
        self.event = event
        self.owner = owner
        self.count = 1
        self.last = event.at
        self.due = due
        """Monotonic seconds."""


class _Exchange:
    """A plain request that was let through, and its end if that comes before the writer does."""

    __slots__ = ("decision", "end")

    def __init__(self, decision: DecisionEvent) -> None:
        self.decision = decision
        self.end: FlowEnd | None = None


class AuditQueue[Item]:
    """`put`, `put_denial` are the event loop's, `take` and `done` the writer's thread's."""

    def __init__(self, length: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`length` is how many events may wait before callers do: see `Backlog`."""
        self._backlog: Final = Backlog(length)
        self._clock: Final = clock
        self._waiting: deque[tuple[Item | _Run | _Exchange, Owner]] = deque()
        self._turn: Final = threading.Lock()
        """Held while a run is counted on or taken: a denial that was answered is in one group or the next."""
        self._runs: dict[tuple[Owner, object], _Run] = {}
        self._summaries: dict[tuple[Owner, object], _Run] = {}
        self._open: dict[str, _Exchange] = {}
        """Exchanges by the id of their decision, while that waits."""
        self._told: dict[tuple[Owner, object], float] = {}
        """When the last summary of its kind went."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._summaries)

    def put(self, item: Item, owner: Owner) -> None:
        """Queues an event. The end of a plain exchange whose decision still waits becomes one entry with it."""
        waiting: Item | _Exchange = item
        if isinstance(item, DecisionEvent) and item.kind is Kind.HTTP and item.verdict == _ALLOW:
            # Known before it waits: if the writer takes everything in between, its end is an entry of its own.
            self._open[item.id] = waiting = _Exchange(item)
        elif isinstance(item, FlowEnd) and self._ends(item):
            return
        self._backlog.grew(owner)
        self._waiting.append((waiting, owner))

    def _ends(self, end: FlowEnd) -> bool:
        """Whether the decision of this end waits, and has it now. Cuts and failures stand by themselves."""
        with self._turn:
            exchange = self._open.pop(end.decision, None)
            if exchange is None or end.cause != WHOLE:
                return False
            exchange.end = end
        return True

    def put_denial(self, event: DecisionEvent, owner: Owner, *, summary: bool) -> str:
        """Queues a denial, or counts one up; returns the id under which this one is on record.

        A `summary` stands for many calls, and is counted on over several groups.
        """
        key = (owner, _MARKS(event))
        with self._turn:
            runs = self._summaries if summary else self._runs
            run = runs.get(key)
            if run is not None:
                run.count += 1
                run.last = max(run.last, event.at)
                return repeated_id(run.event.id, run.count - 1)
            runs[key] = run = _Run(event, owner, self._told.get(key, 0.0) + GATHER_SECONDS)
            self._backlog.grew(owner)
            if not summary:
                self._waiting.append((run, owner))
        return event.id

    def take(self, *, closing: bool = False) -> list[tuple[Item | DecisionEvent, Owner]]:
        """Everything that is due; when `closing`, everything."""
        with self._turn:
            self._runs.clear()
            self._open.clear()
            self._sum_up(closing=closing)
            return [self._sealed(*self._waiting.popleft()) for _ in range(len(self._waiting))]

    def _sum_up(self, *, closing: bool) -> None:
        if not self._summaries and not self._told:
            return
        now = self._clock()
        for key, run in tuple(self._summaries.items()):
            if closing or run.due <= now:
                del self._summaries[key]
                self._told[key] = now
                self._waiting.append((run, run.owner))
        self._told = {key: at for key, at in self._told.items() if at + GATHER_SECONDS > now}

    @staticmethod
    def _sealed(item: Item | _Run | _Exchange, owner: Owner) -> tuple[Item | DecisionEvent, Owner]:
        if isinstance(item, _Exchange):
            return (item.decision if item.end is None else finished(item.decision, item.end)), owner
        if not isinstance(item, _Run):
            return item, owner
        return (item.event if item.count == 1 else repeated(item.event, item.count, item.last)), owner

    def patience(self, longest: float) -> float:
        """Seconds until the next summary is due, `longest` at most."""
        with self._turn:
            due = min((run.due for run in self._summaries.values()), default=None)
        return longest if due is None else max(0.0, min(longest, due - self._clock()))

    def done(self, owners: Iterable[Owner]) -> None:
        """What was taken for these is settled: on disk, or refused."""
        self._backlog.shrank(owners)

    def behind(self, owner: Owner) -> bool:
        return self._backlog.behind(owner)
