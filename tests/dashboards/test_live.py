"""A real Prometheus over a real `serve`: every panel and every alert is asked, and must answer what happened.

The sandbox's metrics and LocalAI come from stand-ins (tests/dashboards/scene.py): neither is part of this build.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloned_proxy.telemetry.wait_metrics import WaitReason
from tests.cli.conftest import workspace
from tests.cli.program import TOOL, Workspace
from tests.dashboards.panels import Target, targets
from tests.dashboards.scene import OTHER, Scene, playing
from tests.dashboards.server import Labels

__all__ = ["workspace"]

ALONE = ("egress-overview", "blocked-calls", "sandbox-and-isolation")
"""The dashboards of one proxy; test_live_fleet.py has that of many."""
ROUNDS = 2
NOBODY = "_anonymous"

type Expected = float | Callable[[float], bool]


def some(value: float) -> bool:
    return value > 0


def share(part: float) -> Callable[[float], bool]:
    return lambda value: abs(value - part) < 0.15


def milliseconds_ago(seconds: float) -> Callable[[float], bool]:
    return lambda value: 0 <= time.time() - value / 1000 < seconds


BLOCKED = {
    f"one.example {NOBODY}": 1, f"two.example {NOBODY}": 2, f"127.0.0.1 {NOBODY}": 1,
    f"exfil.example {TOOL}": 2, f"127.0.0.1 {TOOL}": 1, f"127.0.0.1 {OTHER}": 2,
}  # fmt: skip
REASONS = {
    f"host_not_allowed {NOBODY}": 3, f"host_not_allowed {TOOL}": 2, f"identity_invalid {NOBODY}": 1,
    f"identity_mismatch {OTHER}": 2, f"method_not_allowed {TOOL}": 1,
}  # fmt: skip
BY_REASON = dict.fromkeys(("host_not_allowed", "identity_invalid", "identity_mismatch", "method_not_allowed"), some)

# What each target finds: the values of its labels (in the order of the labels' names) and the value, per panel.
EXPECTED: dict[tuple[str, str, str], dict[str, Expected]] = {
    ("egress-overview", "Proxies up", "A"): {"": 1},
    ("egress-overview", "Policy", "A"): {"": 1},
    ("egress-overview", "Policy loaded", "A"): {"": lambda seconds: 0 < seconds < 60},
    ("egress-overview", "Rules", "A"): {"": 3},
    ("egress-overview", "Open tunnels", "A"): {"": 1},
    ("egress-overview", "Audit queue", "A"): {"": 0},
    ("egress-overview", "Decisions", "A"): {"allow": some, "deny": some},
    ("egress-overview", "Block ratio by tool", "A"): {NOBODY: 1, OTHER: 1, TOOL: share(3 / 9)},
    ("egress-overview", "Top blocked hosts", "A"): {key: ROUNDS * count for key, count in BLOCKED.items()},
    ("egress-overview", "Top blocked hosts", "B"): dict.fromkeys(BLOCKED, milliseconds_ago(45)),
    ("egress-overview", "Denials by reason", "A"): dict[str, Expected](BY_REASON),
    ("egress-overview", "Open tunnels by tool", "A"): {TOOL: 1},
    ("egress-overview", "Bytes by tool", "A"): {f"down {TOOL}": some, f"up {TOOL}": some},
    ("egress-overview", "Clients wait", "A"): dict.fromkeys(WaitReason, 0),
    ("egress-overview", "Time to connect", "A"): {"+Inf": some},
    ("egress-overview", "Time of a flow", "A"): {"+Inf": some},
    ("egress-overview", "Time to decide", "A"): {"": lambda seconds: 0 < seconds < 0.1},
    ("egress-overview", "Time to decide", "B"): {"": lambda seconds: 0 < seconds <= 1},
    ("egress-overview", "Leases in use", "A"): {TOOL: lambda seconds: 3000 < seconds <= 3600},
    ("blocked-calls", "Refused", "A"): {"": ROUNDS * sum(REASONS.values())},
    ("blocked-calls", "Tools refused", "A"): {"": 3},
    ("blocked-calls", "Reasons", "A"): {"": 4},
    ("blocked-calls", "Hosts refused", "A"): {"": len(BLOCKED)},
    ("blocked-calls", "Refused over time", "A"): dict.fromkeys(REASONS, some),
    ("blocked-calls", "By tool and reason", "A"): {key: ROUNDS * count for key, count in REASONS.items()},
    ("blocked-calls", "By tool and host", "A"): {key: ROUNDS * count for key, count in BLOCKED.items()},
    ("sandbox-and-isolation", "Isolation", "A"): {"": 1},
    ("sandbox-and-isolation", "LocalAI", "A"): {"": 1},
    ("sandbox-and-isolation", "Runs", "A"): {"": ROUNDS * 3},
    ("sandbox-and-isolation", "Failures", "A"): {"": ROUNDS},
    ("sandbox-and-isolation", "Runs by result", "A"): {"ok": some, "timeout": some},
    ("sandbox-and-isolation", "Isolation over time", "A"): {"": 1},
    ("sandbox-and-isolation", "Slots", "A"): {"": 2},
    ("sandbox-and-isolation", "LocalAI over time", "A"): {"": 1},
    ("sandbox-and-isolation", "Time to start", "A"): {"+Inf": some},
    ("sandbox-and-isolation", "Model: tokens", "A"): {"": some},
    ("sandbox-and-isolation", "Model: tokens", "B"): {"": some},
    ("sandbox-and-isolation", "Model: queue", "A"): {"": 2},
    ("sandbox-and-isolation", "Model: queue", "B"): {"": 2},
    ("sandbox-and-isolation", "Model: time to first token", "A"): {"": lambda seconds: 0.1 < seconds <= 0.25},
    ("sandbox-and-isolation", "Model: time to first token", "B"): {"": lambda seconds: 1 < seconds <= 2.5},
    ("sandbox-and-isolation", "Model: memory", "A"): {"": 2},
    ("sandbox-and-isolation", "Failures by tool", "A"): {f"timeout {TOOL}": ROUNDS},
}


@pytest.fixture
def scene(workspace: Workspace, tmp_path: Path) -> Iterator[Scene]:
    with playing(workspace, tmp_path) as found:
        yield found


def key(labels: Labels) -> str:
    ignored = {"__name__", "instance", "job"}
    return " ".join(value for name, value in sorted(labels.items()) if name not in ignored)


def differs(scene: Scene, target: Target) -> str | None:
    found = {key(labels): value for labels, value in scene.prometheus.values(target.expr)}
    expected = EXPECTED[target.name]
    if "+Inf" in expected:
        assert len(found) > 5, f"{target.name}: a histogram without buckets"
        found = {"+Inf": found["+Inf"]}
    if set(found) != set(expected):
        return f"{target.name}: found {found}, expected {set(expected)}"
    for name, wanted in expected.items():
        value = found[name]
        if not (wanted(value) if callable(wanted) else value == wanted):
            return f"{target.name}: {name or 'the value'} is {value}"
    return None


@pytest.mark.slow
def test_every_panel_shows_what_happened(scene: Scene) -> None:
    scene.held.append(scene.connect(scene.echo.port))
    jobs = {"cloned-proxy", "localai", "sandbox-stand-in"}
    for _ in range(ROUNDS):
        scene.round()
        scene.prometheus.scraped(jobs)

    asked = list(targets(ALONE))
    assert {target.name for target in asked} == set(EXPECTED)
    assert len(asked) == len(EXPECTED), "two panels of a dashboard have one name"
    # The column `Last seen` steps by 15 s; everything else must be there with the scrape.
    for target in asked:
        if target.name != ("egress-overview", "Top blocked hosts", "B"):
            assert (problem := differs(scene, target)) is None, problem
    last_seen = next(target for target in asked if target.ref == "B" and target.panel == "Top blocked hosts")
    scene.prometheus.wait(lambda: differs(scene, last_seen) is None, "when each host was last seen")
    _from_a_point_to_the_log(scene)


def _from_a_point_to_the_log(scene: Scene) -> None:
    """The drill-down that `Blocked calls` promises: the exemplar of a denial is the id of an entry of the log."""
    now = time.time()
    found = scene.prometheus.ask(
        "query_exemplars",
        query='cloned_proxy_decisions_total{reason="method_not_allowed"}',
        start=str(now - 60),
        end=str(now),
    )
    ids = {exemplar["labels"]["decision_id"] for series in found for exemplar in series["exemplars"]}
    log = [json.loads(line) for line in scene.workspace.run("log", "--json", "--since", "1h").stdout.splitlines()]
    entries = [entry for entry in log if entry.get("id") in ids]
    assert entries, (ids, log[:1])
    assert {entry["reason"] for entry in entries} == {"method_not_allowed"}


@pytest.mark.slow
def test_alerts_fire_on_their_cause_and_clear_without_it(scene: Scene) -> None:
    """Real time, with `for: 1s`; simulated time with the shipped `for:` is in alerts.yml."""
    prometheus, workspace = scene.prometheus, scene.workspace

    def fires(alert: str, seconds: float = 60) -> list[Labels]:
        prometheus.wait(lambda: alert in prometheus.firing(), f"{alert} fires", seconds)
        return prometheus.firing()[alert]

    def clears(alert: str) -> None:
        prometheus.wait(lambda: alert not in prometheus.firing(), f"{alert} clears")

    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    # Before the first scrape there is no proxy: the alert for that must go by itself.
    prometheus.wait(lambda: prometheus.firing() == {}, "silence")

    good = workspace.policy.read_text()
    workspace.write_policy(good + "mystery: 1\n")
    fires("ClonedProxyPolicyReloadFailing")
    workspace.write_policy(good)
    clears("ClonedProxyPolicyReloadFailing")

    scene.round()
    assert {labels["tool"] for labels in fires("ClonedProxyIdentityMismatch")} == {OTHER}
    for _ in range(200):
        scene.serving.get("http://exfil.example/", headers=scene.demo)
    assert {labels["tool"] for labels in fires("ClonedProxyBlockSpike")} == {TOOL}

    scene.sandbox.sealed.set(0)
    fires("ClonedProxyIsolationProbeFailing")
    scene.sandbox.sealed.set(1)
    clears("ClonedProxyIsolationProbeFailing")

    scene.sandbox.close()
    fires("ClonedProxyIsolationProbeSilent")
    scene.model.close()
    fires("ClonedLocalAIUnhealthy")

    assert "ClonedProxyDown" not in prometheus.firing()
    scene.serving.signal(signal.SIGKILL)
    fires("ClonedProxyDown")
