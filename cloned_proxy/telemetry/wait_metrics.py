"""For how long clients had to wait: back-pressure, which refuses nobody, seen at work."""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter


class WaitReason(enum.StrEnum):
    """What clients wait for, named after the setting that bounds it."""

    MAX_CONNECTIONS = "max_connections"
    """To be accepted: all places are taken, or all that a listener may have."""
    OPEN_FILES = "open_files"
    """To be accepted: the process has no file descriptor left."""
    AUDIT_QUEUE = "audit_queue"
    """To be read or answered: the log is behind."""
    DENIALS_PER_MINUTE = "denials_per_minute"
    """To be refused: a caller is over its budget of refusals."""


class WaitMetrics:
    """The waiting in one process, on its event loop. A second in which many clients wait for one thing counts once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = Counter(
            "cloned_proxy_waiting_seconds",
            "Seconds in which clients waited to be accepted, read or refused, by what for.",
            ("reason",),
            registry=registry,
        )
        # All series exist from the start, so that rate() sees the first step.
        self._seconds: Final = {reason: seconds.labels(reason.value) for reason in WaitReason}
        self._waiting: Final = dict.fromkeys(WaitReason, 0)
        """How many doors or calls wait here."""
        self._since: Final = dict.fromkeys(WaitReason, 0.0)
        """Monotonic seconds until which the waiting is counted."""
        self._at: Final[dict[WaitReason, float]] = {}
        """When somebody has waited last."""

    @contextlib.contextmanager
    def waiting(self, reason: WaitReason) -> Iterator[None]:
        """While it lasts somebody waits for this."""
        self.begin(reason)
        try:
            yield
        finally:
            self.end(reason)

    def begin(self, reason: WaitReason) -> None:
        if not self._waiting[reason]:
            self._since[reason] = time.monotonic()
        self._waiting[reason] += 1

    def end(self, reason: WaitReason) -> None:
        self.carry()
        self._waiting[reason] -= 1

    def carry(self) -> None:
        """Counts what waits on; to be called each second."""
        now = time.monotonic()
        for reason, count in self._waiting.items():
            if count:
                self.waited(reason, now - self._since[reason])
                self._since[reason] = now

    def waited(self, reason: WaitReason, seconds: float) -> None:
        """Somebody has waited for so long, here or in the native plane."""
        if seconds > 0:
            self._seconds[reason].inc(seconds)
            self._at[reason] = time.monotonic()

    def lately(self, seconds: float) -> list[str]:
        """For what anybody has waited within so many seconds."""
        now = time.monotonic()
        return [reason.value for reason in WaitReason if now - self._at.get(reason, float("-inf")) <= seconds]
