"""When the leases that tools really use run out: a number a tool; one a rule would grow with each lease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

NEVER: Final = float("inf")
_IN_USE_SECONDS: Final = 3600.0
"""A lease that was not used for so long is not missed when it runs out."""


class LeaseMetrics:
    """One for each process, on the event loop. Costs a request without a lease one look into a dict."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._known: Mapping[str, float] = {}
        self._used: dict[str, dict[str, float]] = {}
        """Label of a tool to each lease that it used, and when (Unix seconds)."""
        # Over several workers each knows of its own requests: what runs out first counts.
        self._expires = Gauge(
            "cloned_proxy_lease_expires_timestamp_seconds",
            "When the first lease runs out that the tool used within an hour; +Inf: none.",
            ("tool",),
            registry=registry,
            multiprocess_mode="livemin",
        )

    def know(self, leases: Mapping[str, float]) -> None:
        """The rules with an end in the policy in force: id and Unix seconds. A renewed lease keeps its id."""
        self._known = leases
        for tool, used in self._used.items():
            self._used[tool] = {rule: at for rule, at in used.items() if rule in leases}
            self._show(tool)

    def passed(self, tool: str, rule: str, at: float) -> None:
        """A request passed by this rule, which may be a lease or not."""
        if rule not in self._known:
            return
        self._used.setdefault(tool, {})[rule] = at
        self._show(tool)

    def review(self, now: float) -> None:
        """Forgets what has run out and what is no longer used; to be called each second."""
        for tool, used in self._used.items():
            kept = {rule: at for rule, at in used.items() if at > now - _IN_USE_SECONDS and self._known[rule] > now}
            if len(kept) != len(used):
                self._used[tool] = kept
                self._show(tool)

    def _show(self, tool: str) -> None:
        self._expires.labels(tool).set(min((self._known[rule] for rule in self._used[tool]), default=NEVER))
