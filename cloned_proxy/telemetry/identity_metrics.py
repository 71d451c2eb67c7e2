"""The metrics of tokens that are verified with public keys, made where there is a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge


class IdentityMetrics:
    """One for each process."""

    def __init__(self, registry: CollectorRegistry, faults: Iterable[str], issuers: Iterable[str]) -> None:
        """`faults` and `issuers` are all there can be."""
        self._refused: Final = Counter(
            "cloned_proxy_fleet_tokens_refused",
            "Tokens that proved nothing, by what was wrong with them.",
            ("reason",),
            registry=registry,
        )
        self._loaded: Final = Gauge(
            "cloned_proxy_fleet_issuer_loaded_timestamp_seconds",
            "When an issuer's keys were last loaded; 0 for never.",
            ("issuer",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        for fault in faults:  # every series exists from the start, so that rate() sees the first step
            self._refused.labels(fault)
        for issuer in issuers:
            self._loaded.labels(issuer)

    def refused(self, fault: str) -> None:
        self._refused.labels(fault).inc()

    def loaded(self, issuer: str, clock: Callable[[], float]) -> None:
        """The issuer's keys were loaded now, in Unix seconds by the clock."""
        self._loaded.labels(issuer).set(clock())
