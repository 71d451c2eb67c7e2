"""The metric of the proxy in front, made where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter


class UpstreamMetrics:
    """One for each process."""

    def __init__(self, registry: CollectorRegistry, causes: Iterable[str]) -> None:
        """`causes` are all there can be."""
        self._failures: Final = Counter(
            "cloned_proxy_upstream_proxy_failures",
            "Connections that the upstream proxy did not give, by cause.",
            ("cause",),
            registry=registry,
        )
        for cause in causes:  # every series exists from the start, so that rate() sees the first step
            self._failures.labels(cause)

    def failed(self, cause: str) -> None:
        self._failures.labels(cause).inc()
