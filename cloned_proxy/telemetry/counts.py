"""Counts of the hot path: plain numbers that the event loop adds to, carried to the metrics when they are asked for.

A step of a prometheus_client metric takes a lock and one to four microseconds, and one request makes a dozen. Here the
loop alone writes, so nothing needs a lock; whoever carries only reads, and remembers how much it has carried.
Several workers are scraped in another process, which cannot ask them for anything: there each step is made at once.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Count:
    """What a counter is to grow by."""

    __slots__ = ("_carried", "_counter", "_decision", "_value")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._carried = 0
        self._value = 0
        self._decision = ""

    def add(self, amount: int, decision: str = "") -> None:
        """`decision` becomes the exemplar, which only the OpenMetrics form shows."""
        self._value += amount
        self._decision = decision

    def carry(self) -> None:
        decision, new = self._decision, self._value - self._carried
        if not new:
            return
        self._carried += new
        if decision:
            self._counter.inc(new - 1)
            self._counter.inc(exemplar={"decision_id": decision})
        else:
            self._counter.inc(new)


class Level:
    """What a gauge shows."""

    __slots__ = ("_gauge", "_value")

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0

    def add(self, amount: int) -> None:
        self._value += amount

    def carry(self) -> None:
        self._gauge.set(self._value)


class Spread:
    """What a histogram is to grow by."""

    __slots__ = ("_bounds", "_carried", "_carried_sum", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds: tuple[float, ...] = tuple(histogram._upper_bounds)  # noqa: SLF001  of the public `buckets`
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._carried = [0] * len(self._bounds)
        self._carried_sum = 0.0

    def observe(self, amount: float) -> None:
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def add(self, counts: Sequence[int], total: float) -> None:
        """Many at a time: how many in each bucket, and their sum."""
        for place, count in enumerate(counts):
            self._counts[place] += count
        self._sum += total

    def carry(self) -> None:
        # Added as `Histogram.observe` adds, many at a time; there is no public way to do that.
        histogram, total = self._histogram, self._sum
        histogram._sum.inc(total - self._carried_sum)  # noqa: SLF001  see above
        self._carried_sum = total
        for place, count in enumerate(tuple(self._counts)):
            if new := count - self._carried[place]:
                histogram._buckets[place].inc(new)  # noqa: SLF001  see above
                self._carried[place] = count


class _CountAtOnce(Count):
    __slots__ = ()

    def add(self, amount: int, decision: str = "") -> None:  # noqa: ARG002  files of several workers hold no exemplar
        self._counter.inc(amount)


class _LevelAtOnce(Level):
    __slots__ = ()

    def add(self, amount: int) -> None:
        self._gauge.inc(amount)


class _SpreadAtOnce(Spread):
    __slots__ = ()

    def observe(self, amount: float) -> None:
        self._histogram.observe(amount)


class Counts(Collector):
    """Registered before the metrics that it carries to, so that every scrape sees them up to date."""

    def __init__(self, *, at_once: bool) -> None:
        """`at_once` is for one of several workers."""
        self._at_once: Final = at_once
        self._lock: Final = threading.Lock()
        self._carried: list[Count | Level | Spread] = []
        self.refresh: Callable[[], None] | None = None
        """Asked before anything is carried: has whoever counts elsewhere add what is new, on the event loop."""

    def count(self, counter: Counter) -> Count:
        return _CountAtOnce(counter) if self._at_once else self._add(Count(counter))

    def level(self, gauge: Gauge) -> Level:
        return _LevelAtOnce(gauge) if self._at_once else self._add(Level(gauge))

    def spread(self, histogram: Histogram) -> Spread:
        return _SpreadAtOnce(histogram) if self._at_once else self._add(Spread(histogram))

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        if (refresh := self.refresh) is not None:
            refresh()
        with self._lock:
            for carried in tuple(self._carried):
                carried.carry()
        return ()

    def _add[Carried: Count | Level | Spread](self, carried: Carried) -> Carried:
        self._carried.append(carried)
        return carried
