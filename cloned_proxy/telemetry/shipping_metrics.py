"""The metrics of a log that is sent to the store of a fleet, made where there is one."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge


class ShippingMetrics:
    """One for each process that ships."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shipped: Final = Counter(
            "cloned_proxy_fleet_audit_shipped", "Entries that the store has taken.", registry=registry
        )
        self._skipped: Final = Counter(
            "cloned_proxy_fleet_audit_skipped",
            "Entries that were not sent: the store was away for longer than it would have kept them.",
            registry=registry,
        )
        self._lag: Final = Gauge(
            "cloned_proxy_fleet_audit_lag_entries",
            "Entries on record here that the store has not taken yet.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._lag_seconds: Final = Gauge(
            "cloned_proxy_fleet_audit_lag_seconds",
            "Age of the oldest of them.",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def shipped(self, entries: int) -> None:
        self._shipped.inc(entries)

    def skipped(self, entries: int) -> None:
        self._skipped.inc(entries)

    def lag(self, entries: int, seconds: float) -> None:
        self._lag.set(entries)
        self._lag_seconds.set(seconds)
