from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry

from cloned_proxy.telemetry.wait_metrics import WaitMetrics, WaitReason


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def seconds(registry: CollectorRegistry, reason: WaitReason) -> float | None:
    return registry.get_sample_value("cloned_proxy_waiting_seconds_total", {"reason": reason.value})


def test_a_second_in_which_many_wait_is_one_second(clock: list[float]) -> None:
    registry = CollectorRegistry()
    waits = WaitMetrics(registry)
    for _ in range(3):
        waits.begin(WaitReason.MAX_CONNECTIONS)
    clock[0] += 2
    waits.end(WaitReason.MAX_CONNECTIONS)
    clock[0] += 1
    waits.end(WaitReason.MAX_CONNECTIONS)
    waits.end(WaitReason.MAX_CONNECTIONS)
    clock[0] += 5
    waits.carry()
    assert seconds(registry, WaitReason.MAX_CONNECTIONS) == 3
    assert seconds(registry, WaitReason.AUDIT_QUEUE) == 0


def test_what_waits_on_is_counted_meanwhile_and_not_twice(clock: list[float]) -> None:
    registry = CollectorRegistry()
    waits = WaitMetrics(registry)
    with waits.waiting(WaitReason.AUDIT_QUEUE):
        clock[0] += 2
        waits.carry()
        assert seconds(registry, WaitReason.AUDIT_QUEUE) == 2
        clock[0] += 1
    clock[0] += 1
    waits.carry()
    assert seconds(registry, WaitReason.AUDIT_QUEUE) == 3


def test_every_series_is_there_before_anybody_has_waited() -> None:
    registry = CollectorRegistry()
    WaitMetrics(registry)
    assert [seconds(registry, reason) for reason in WaitReason] == [0.0] * len(WaitReason)


def test_who_has_waited_lately_is_told_for_as_long_as_that_is_lately(clock: list[float]) -> None:
    waits = WaitMetrics(CollectorRegistry())
    assert waits.lately(60) == []
    waits.waited(WaitReason.OPEN_FILES, 0.5)
    waits.waited(WaitReason.AUDIT_QUEUE, 0.0)
    clock[0] += 59
    assert waits.lately(60) == ["open_files"]
    clock[0] += 2
    assert waits.lately(60) == []
