from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cloned_proxy.telemetry.events import DecisionEvent, Kind
from cloned_proxy.telemetry.metrics import Metrics

EVENT = DecisionEvent(
    id="d1", at=1000.0, kind=Kind.TUNNEL, verdict="deny", reason="host_not_allowed", tool="demo@v1", run=None,
    host="a.test", port=443, method="CONNECT", path="", rule="", policy="abc", hint="",
)  # fmt: skip

CONTRACT = {
    "cloned_proxy_decisions_total": {"tool", "verdict", "reason"},
    "cloned_proxy_blocked_hosts_total": {"tool", "host"},
    "cloned_proxy_decision_duration_seconds": set(),
    "cloned_proxy_upstream_connect_duration_seconds": set(),
    "cloned_proxy_request_duration_seconds": {"kind"},
    "cloned_proxy_open_tunnels": {"tool"},
    "cloned_proxy_bytes_total": {"tool", "direction"},
    "cloned_proxy_policy_reloads_total": {"result"},
    "cloned_proxy_policy_last_reload_success": set(),
    "cloned_proxy_policy_last_reload_timestamp_seconds": set(),
    "cloned_proxy_policy_rules": set(),
    "cloned_proxy_audit_queue": set(),
    "cloned_proxy_audit_dropped_total": set(),
    "cloned_proxy_build_info": {"version", "python"},
}


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.know_tools({"demo@v1"})
    return metrics


def _use_all(metrics: Metrics) -> None:
    metrics.decided(EVENT, 0.00001)
    metrics.upstream_connected(0.01)
    metrics.request_finished("tunnel", 1.0)
    metrics.tunnel_opened("demo@v1")
    metrics.bytes_passed("demo@v1", up=1, down=2)
    metrics.policy_loaded(rules=3, at=1000.0)
    metrics.audit_queue(4)
    metrics.audit_dropped()


def test_names_and_labels_are_exactly_those_of_the_contract(metrics: Metrics) -> None:
    _use_all(metrics)
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert found == CONTRACT


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("tool", "label"), [("demo@v1", "demo@v1"), ("never-heard-of", "_unknown"), (None, "_anonymous")]
)
def test_no_tool_name_outside_the_policy_becomes_a_label(metrics: Metrics, tool: str | None, label: str) -> None:
    metrics.decided(replace(EVENT, tool=tool), 0.0)
    metrics.bytes_passed(tool, up=5, down=7)
    metrics.tunnel_opened(tool)
    reason = {"verdict": "deny", "reason": "host_not_allowed"}
    assert _value(metrics, "cloned_proxy_decisions_total", tool=label, **reason) == 1
    assert _value(metrics, "cloned_proxy_bytes_total", tool=label, direction="down") == 7
    assert _value(metrics, "cloned_proxy_open_tunnels", tool=label) == 1


def test_a_tunnel_leaves_the_gauge_where_it_came_in(metrics: Metrics) -> None:
    metrics.tunnel_opened("demo@v1")
    metrics.know_tools(set())
    metrics.tunnel_closed("demo@v1")
    assert _value(metrics, "cloned_proxy_open_tunnels", tool="demo@v1") == 0
    assert _value(metrics, "cloned_proxy_open_tunnels", tool="_unknown") is None


def test_a_hundred_hosts_a_tool_and_then_other(metrics: Metrics) -> None:
    for number in range(150):
        metrics.decided(replace(EVENT, host=f"h{number}.test"), 0.0)
    metrics.decided(replace(EVENT, host="h0.test"), 0.0)
    metrics.decided(replace(EVENT, reason="malformed_request", host="free text"), 0.0)
    assert _value(metrics, "cloned_proxy_blocked_hosts_total", tool="demo@v1", host="_other") == 51
    assert _value(metrics, "cloned_proxy_blocked_hosts_total", tool="demo@v1", host="h0.test") == 2
    assert _value(metrics, "cloned_proxy_blocked_hosts_total", tool="demo@v1", host="free text") is None


def test_what_passes_is_not_a_blocked_host(metrics: Metrics) -> None:
    metrics.decided(replace(EVENT, verdict="allow", reason="allowed"), 0.0)
    assert _value(metrics, "cloned_proxy_blocked_hosts_total", tool="demo@v1", host="a.test") is None


def test_a_refused_reload_shows(metrics: Metrics) -> None:
    metrics.policy_loaded(rules=3, at=1000.0)
    metrics.policy_rejected()
    assert _value(metrics, "cloned_proxy_policy_last_reload_success") == 0
    assert _value(metrics, "cloned_proxy_policy_reloads_total", result="rejected") == 1
    assert _value(metrics, "cloned_proxy_policy_rules") == 3


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing: apt-get install prometheus")
        pytest.skip("promtool is missing: apt-get install prometheus")
    _use_all(metrics)
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(metrics.registry),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_decision_is_counted_in_microseconds(metrics: Metrics) -> None:
    metrics.decided(EVENT, 0.0)
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(1000):
            metrics.decided(EVENT, 0.00001)
        best = min(best, (time.perf_counter() - started) / 1000)
    assert best < 50e-6
