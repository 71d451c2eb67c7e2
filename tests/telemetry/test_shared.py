"""The sum of several workers' metrics. Each worker is a process: the library's multi-process mode is one way only."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from prometheus_client import generate_latest

from cloned_proxy.telemetry.shared import retire_metrics, shared_registry

_WORKER = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from cloned_proxy.telemetry.events import DecisionEvent, Kind
from cloned_proxy.telemetry.metrics import Metrics
from cloned_proxy.telemetry.shared import share_metrics
share_metrics(Path(sys.argv[1]), int(sys.argv[2]))
metrics = Metrics(CollectorRegistry(), shared=True)
def deny(host):
    metrics.decided(DecisionEvent("d", 1.0, Kind.TUNNEL, "deny", "host_not_allowed", None, None, host, 443, "CONNECT",
                                  "", "", "", ""), 0.001)
exec(sys.argv[3])
"""


def work(directory: Path, worker: int, code: str) -> None:
    subprocess.run([sys.executable, "-c", _WORKER, str(directory), str(worker), code], check=True, timeout=60)


def series(directory: Path) -> dict[str, float]:
    text = generate_latest(shared_registry(directory)).decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len({name for name, _ in lines})
    return {name: float(number) for name, number in lines}


def test_counters_and_histograms_are_summed_and_gauges_say_what_holds_for_all(tmp_path: Path) -> None:
    work(
        tmp_path, 0,
        "for _ in range(3): deny('a.test')\n"
        "metrics.policy_loaded(rules=7, at=200.0)\n"
        "for _ in range(4): metrics.tunnel_opened(None)\n"
        "metrics.audit_queue(5)",
    )  # fmt: skip
    work(
        tmp_path, 1,
        "deny('a.test'); deny('b.test')\n"
        "metrics.policy_loaded(rules=7, at=100.0, counts=False); metrics.policy_rejected(counts=False)\n"
        "for _ in range(2): metrics.tunnel_opened(None)\n"
        "metrics.audit_queue(1)",
    )  # fmt: skip
    found = series(tmp_path)
    denied = 'cloned_proxy_decisions_total{reason="host_not_allowed",tool="_anonymous",verdict="deny"}'
    assert found[denied] == 5
    assert found['cloned_proxy_blocked_hosts_total{host="a.test",tool="_anonymous"}'] == 4
    assert found["cloned_proxy_decision_duration_seconds_count"] == 5
    assert found['cloned_proxy_decision_duration_seconds_bucket{le="+Inf"}'] == 5
    assert found['cloned_proxy_open_tunnels{tool="_anonymous"}'] == 6
    assert found["cloned_proxy_audit_queue"] == 6
    assert found["cloned_proxy_policy_last_reload_success"] == 0
    assert found["cloned_proxy_policy_last_reload_timestamp_seconds"] == 100
    assert found["cloned_proxy_policy_rules"] == 7
    assert found['cloned_proxy_policy_reloads_total{result="ok"}'] == 1
    assert found['cloned_proxy_policy_reloads_total{result="rejected"}'] == 0
    assert [number for name, number in found.items() if name.startswith("cloned_proxy_build_info")] == [1]


def test_a_dead_worker_keeps_its_counters_loses_its_gauges_and_its_successor_goes_on(tmp_path: Path) -> None:
    work(tmp_path, 0, "deny('a.test'); metrics.tunnel_opened(None); metrics.policy_rejected()")
    work(tmp_path, 1, "metrics.tunnel_opened(None); metrics.policy_loaded(rules=1, at=1.0)")
    retire_metrics(tmp_path, 0)
    name = 'cloned_proxy_blocked_hosts_total{host="a.test",tool="_anonymous"}'
    found = series(tmp_path)
    assert found[name] == 1
    assert found['cloned_proxy_open_tunnels{tool="_anonymous"}'] == 1
    assert found["cloned_proxy_policy_last_reload_success"] == 1
    work(tmp_path, 0, "deny('a.test')")
    assert series(tmp_path)[name] == 2


def test_the_sum_names_a_hundred_hosts_a_tool_and_loses_none_of_the_rest(tmp_path: Path) -> None:
    for worker in range(2):
        work(tmp_path, worker, f"for n in range(80): deny(f'h{{n}}.w{worker}.test')")
    blocked = {name: value for name, value in series(tmp_path).items() if "blocked_hosts_total" in name}
    assert len(blocked) == 101
    assert blocked['cloned_proxy_blocked_hosts_total{host="_other",tool="_anonymous"}'] == 60
    assert sum(blocked.values()) == 160


def test_a_host_that_was_named_stays_named(tmp_path: Path) -> None:
    registry = shared_registry(tmp_path)
    work(tmp_path, 1, "for n in range(100): deny(f'h{n}.test')")
    first = generate_latest(registry).decode()
    work(tmp_path, 0, "for n in range(100): deny(f'x{n}.test')")  # its file is read first from now on
    second = generate_latest(registry).decode()
    assert 'host="h99.test"' in first
    assert 'host="h99.test"' in second
    assert 'host="x1.test"' not in second


def test_a_file_in_the_making_does_not_break_a_scrape(tmp_path: Path) -> None:
    work(tmp_path, 0, "deny('a.test')")
    before = series(tmp_path)
    young = tmp_path / "counter_1.db"
    young.touch()
    threading.Timer(0.02, young.write_bytes, (bytes(8),)).start()
    assert series(tmp_path) == before
