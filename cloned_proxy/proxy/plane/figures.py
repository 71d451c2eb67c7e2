"""What the plane has counted, told to the metrics, which are the event loop's."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Iterable
from typing import Final

from cloned_proxy.proxy.plane.counted import Counted, changed, counts_of
from cloned_proxy.proxy.plane.library import NUMBERS
from cloned_proxy.telemetry.metrics import CONNECT_BUCKETS, DECISION_BUCKETS, REQUEST_BUCKETS, Metrics
from cloned_proxy.telemetry.wait_metrics import WaitReason

SPREADS: Final = (CONNECT_BUCKETS, DECISION_BUCKETS, REQUEST_BUCKETS, REQUEST_BUCKETS)
"""In the order of `plane_spread`."""
NATIVE_WAITS: Final = (WaitReason.MAX_CONNECTIONS, WaitReason.OPEN_FILES, WaitReason.AUDIT_QUEUE)
"""In the order of `waits.rs`. Callers over their budget of refusals wait in Python."""
_WAITS: Final = 7
"""Where the waits begin in what `plane_numbers` tells."""
_MICROSECOND: Final = 1e-6
_REFRESH_SECONDS: Final = 1.0


class Figures:
    """The figures of one plane."""

    def __init__(
        self,
        native: ctypes.CDLL,
        plane: int,
        metrics: Metrics,
        *,
        verdicts: Callable[[], Iterable[Counted]],
        clock: Callable[[], float],
    ) -> None:
        self._library: Final = native
        self._plane: Final = plane
        self._metrics: Final = metrics
        self._verdicts: Final = verdicts
        self._clock: Final = clock
        self._waited: Final = [0] * len(NATIVE_WAITS)
        self._spreads: Final = [[0] * (len(each) + 2) for each in SPREADS]
        self._loop: Final = asyncio.get_running_loop()
        self._loop_thread: Final = threading.get_ident()

    def refresh(self) -> None:
        """For a scrape, which has a thread of its own."""
        if threading.get_ident() == self._loop_thread:
            self.carry()
            return
        carried = threading.Event()

        def carry() -> None:
            self.carry()
            carried.set()

        self._loop.call_soon_threadsafe(carry)
        carried.wait(_REFRESH_SECONDS)

    def carry(self) -> None:
        """Tells the metrics what was counted since the last time."""
        metrics, at = self._metrics, self._clock()
        for published in changed(self._library, tuple(self._verdicts())):
            counts, last = counts_of(self._library, published)
            if counts == published.counted:
                continue
            granted, _, relaying, up, down = (now - then for now, then in zip(counts, published.counted, strict=True))
            published.counted = counts
            metrics.decided_elsewhere(published.event, granted, last, at)
            metrics.tunnels_changed(published.event.tool, relaying)
            metrics.bytes_passed(published.event.tool, up=up, down=down)
        self._carry_waits()
        for which, known in enumerate(self._spreads):
            values = (ctypes.c_uint64 * len(known))()
            self._library.plane_spread(self._plane, which, values, len(known))
            total, *counts = (now - then for now, then in zip(values, known, strict=True))
            self._spreads[which] = list(values)
            if any(counts):
                metrics.observed_elsewhere(which, counts, total * _MICROSECOND)

    def _carry_waits(self) -> None:
        numbers = (ctypes.c_int64 * NUMBERS)()
        self._library.plane_numbers(self._plane, ctypes.byref(numbers))
        for place, reason in enumerate(NATIVE_WAITS):
            waited = numbers[_WAITS + place]
            self._metrics.waits.waited(reason, (waited - self._waited[place]) * _MICROSECOND)
            self._waited[place] = waited
