"""How a replica of a fleet comes by its shares of limits, by its leases, and by the decisions of people."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

_PARTS: Final = ("requests_per_minute", "bytes_per_hour", "concurrent")


class ShareMetrics:
    """One for each process, made only where it is in a fleet with a store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._asked = Counter(
            "cloned_proxy_fleet_shares_asked",
            "Questions to the store for a share of a limit, by what came of them: more, same, none, store_away.",
            ("result",),
            registry=registry,
        )
        self._share = Gauge(
            "cloned_proxy_fleet_share",
            "The share of a tool's limit that this replica holds, in what the limit counts.",
            ("tool", "limit"),
            registry=registry,
            multiprocess_mode="max",
        )
        self._uses = Counter(
            "cloned_proxy_fleet_uses",
            "Uses of rules with max_uses asked for in the store: taken, used_up, not_counted.",
            ("result",),
            registry=registry,
        )
        self._decisions = Counter(
            "cloned_proxy_fleet_decisions",
            "Decisions of people on requests of tools, by the replica on which they were made.",
            ("replica", "verdict"),
            registry=registry,
        )
        self._grants = Gauge(
            "cloned_proxy_fleet_grants",
            "Approvals of the fleet in force here.",
            registry=registry,
            multiprocess_mode="max",
        )

    def asked(self, result: str) -> None:
        self._asked.labels(result).inc()

    def share(self, tool: str, parts: tuple[int, ...]) -> None:
        for name, part in zip(_PARTS, parts, strict=True):
            self._share.labels(tool, name).set(part)

    def use(self, result: str) -> None:
        self._uses.labels(result).inc()

    def decided(self, replica: str, verdict: str) -> None:
        self._decisions.labels(replica, verdict).inc()

    def grants(self, count: int) -> None:
        self._grants.set(count)
