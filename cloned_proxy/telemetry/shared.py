"""Metrics of several workers as one: each counts in mapped files, which outlive it and which its successor carries on.

That is the multi-process mode of prometheus_client, keyed by the worker's number instead of its process id: counters
never fall when a worker dies, no file is left over from a dead one, and a scrape needs no worker's time.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from cloned_proxy.telemetry.labels import OTHER_LABEL
from cloned_proxy.telemetry.metrics import MAX_HOSTS_A_TOOL

_DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_BLOCKED: Final = "cloned_proxy_blocked_hosts"
_TRIES: Final = 5


def share_metrics(directory: Path, worker: int) -> None:
    """From now on the metrics made in this process are kept in `directory`, under the worker's number."""
    os.environ[_DIRECTORY_VARIABLE] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]  # not typed there


def retire_metrics(directory: Path, worker: int) -> None:
    """Takes back the gauges of a worker that is no more; its counters stay."""
    mark_process_dead(worker, str(directory))  # type: ignore[no-untyped-call]  # as above


def shared_registry(directory: Path) -> CollectorRegistry:
    """A registry with the sums over all workers, for the exposition."""
    registry = CollectorRegistry()
    registry.register(_Sums(directory))
    return registry


class _Sums(Collector):
    def __init__(self, directory: Path) -> None:
        self._files = MultiProcessCollector(None, str(directory))  # type: ignore[no-untyped-call]  # as above
        self._hosts: dict[str, set[str]] = {}

    def collect(self) -> Iterable[Metric]:
        for metric in self._read():
            if metric.name == _BLOCKED:
                self._fold(metric)
            yield metric

    def _read(self) -> list[Metric]:
        for _ in range(_TRIES):
            try:
                return list(self._files.collect())  # type: ignore[no-untyped-call]  # as above
            except struct.error:  # a file that a worker has made and not yet given its first bytes
                time.sleep(0.01)
        return list(self._files.collect())  # type: ignore[no-untyped-call]  # as above

    def _fold(self, metric: Metric) -> None:
        """Each worker names a hundred hosts; the sum names the hundred that were seen first, for good."""
        sums: dict[tuple[str, str], float] = {}
        for sample in metric.samples:
            tool, host = sample.labels["tool"], sample.labels["host"]
            named = self._hosts.setdefault(tool, set())
            if host != OTHER_LABEL and host not in named:
                if len(named) < MAX_HOSTS_A_TOOL:
                    named.add(host)
                else:
                    host = OTHER_LABEL
            sums[tool, host] = sums.get((tool, host), 0.0) + sample.value
        metric.samples = []
        for (tool, host), value in sums.items():
            metric.add_sample(f"{_BLOCKED}_total", {"tool": tool, "host": host}, value)
