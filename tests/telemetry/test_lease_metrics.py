from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from cloned_proxy.telemetry.lease_metrics import NEVER, LeaseMetrics

type Shown = Callable[[str], float | None]


@pytest.fixture
def shown() -> tuple[LeaseMetrics, Shown]:
    registry = CollectorRegistry()
    metrics = LeaseMetrics(registry)

    def value(tool: str) -> float | None:
        return registry.get_sample_value("cloned_proxy_lease_expires_timestamp_seconds", {"tool": tool})

    metrics.know({"r-soon": 5000.0, "r-late": 9000.0})
    return metrics, value


def test_a_lease_that_nobody_uses_is_not_shown(shown: tuple[LeaseMetrics, Shown]) -> None:
    metrics, value = shown
    metrics.passed("t", "r-without-an-end", 1000.0)
    assert value("t") is None


def test_the_lease_that_ends_first_counts_and_only_for_the_tool_that_uses_it(
    shown: tuple[LeaseMetrics, Shown],
) -> None:
    metrics, value = shown
    metrics.passed("t", "r-late", 1000.0)
    assert value("t") == 9000.0
    metrics.passed("t", "r-soon", 1000.0)
    metrics.passed("u", "r-late", 1000.0)
    assert (value("t"), value("u")) == (5000.0, 9000.0)


def test_a_renewed_lease_shows_its_new_end_and_a_removed_one_none(shown: tuple[LeaseMetrics, Shown]) -> None:
    metrics, value = shown
    metrics.passed("t", "r-soon", 1000.0)
    metrics.know({"r-soon": 7000.0})
    assert value("t") == 7000.0
    metrics.know({})
    assert value("t") == NEVER


@pytest.mark.parametrize(("now", "end"), [(4599.0, 5000.0), (4601.0, NEVER), (5001.0, NEVER)])
def test_what_is_out_of_use_or_has_run_out_is_forgotten(
    shown: tuple[LeaseMetrics, Shown], now: float, end: float
) -> None:
    metrics, value = shown
    metrics.passed("t", "r-soon", 1000.0)
    metrics.review(now)
    assert value("t") == end
