"""Sandboxes: how runs end and how fast they start, how many are connected, and whether they are sealed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloned_proxy.telemetry.labels import OTHER_LABEL

START_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
RUN_RESULTS: Final = frozenset(
    {"ok", "failed", "error", "timeout", "limit", "engine", "slot", "proxy", "bad_input", "abandoned"}
)
"""How a sandboxed run can end; `abandoned`: its runner went away before it said how."""


class SandboxMetrics:
    """One for each process. `label` gives the label of a tool, which no caller can multiply."""

    def __init__(self, registry: CollectorRegistry, label: Callable[[str], str]) -> None:
        self._registry = registry
        self._label = label
        self._runs = Counter(
            "cloned_proxy_sandbox_runs", "Sandboxed runs that ended.", ("tool", "result"), registry=registry
        )
        self._start_seconds = Histogram(
            "cloned_proxy_sandbox_start_duration_seconds",
            "Time from the request for a tool's container to its start.",
            buckets=START_BUCKETS,
            registry=registry,
        )
        self._slots = Gauge(
            "cloned_proxy_sandbox_slots", "Sandboxes that are connected now.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        # Made by the first probe: before that, nothing is known, and a 0 would raise an alarm.
        self._probe: Gauge | None = None

    def finished(self, tool: str, result: str, start_seconds: float | None) -> None:
        """A run ended; `result` is one of `RUN_RESULTS`, `start_seconds` None when its container never started."""
        self._runs.labels(self._label(tool), result if result in RUN_RESULTS else OTHER_LABEL).inc()
        if start_seconds is not None:
            self._start_seconds.observe(start_seconds)

    def slots_open(self, count: int) -> None:
        """How many sandboxes are connected."""
        self._slots.set(count)

    def probed(self, *, sealed: bool) -> None:
        """The escape probe ended: whether everything was sealed."""
        if self._probe is None:
            self._probe = Gauge(
                "cloned_proxy_isolation_probe_success",
                "1 if the last escape probe found no way out but the proxy.",
                registry=self._registry,
                multiprocess_mode="livemin",
            )
        self._probe.set(sealed)
