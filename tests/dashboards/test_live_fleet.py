"""A real Prometheus over two real replicas: every panel of the fleet's dashboard and the alerts on refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import workspace
from tests.cli.program import TOOL, Workspace
from tests.dashboards.fleet_scene import PER_MINUTE, USES, FleetScene, playing
from tests.dashboards.panels import targets
from tests.dashboards.server import Labels

__all__ = ["workspace"]

ROUNDS = 2

type Expected = float | Callable[[float], bool]
type Key = tuple[str, ...]


@pytest.fixture
def scene(workspace: Workspace, tmp_path: Path) -> Iterator[FleetScene]:
    with playing(workspace, tmp_path) as found:
        yield found


def some(value: float) -> bool:
    return value > 0


def not_long(seconds: float) -> bool:
    return 0 <= seconds < 60


def at_most(highest: float) -> Callable[[float], bool]:
    return lambda value: 0 <= value <= highest


def expected(one: str, two: str) -> dict[tuple[str, str], dict[Key, Expected]]:
    """What each target finds: the values of its labels, in the order of the labels' names, and the value."""
    both: list[Key] = [(one,), (two,)]
    return {
        ("Replicas", "A"): {(): 2},
        ("Cut off", "A"): {(): 0},
        ("Behind", "A"): {(): 0},
        ("Denying", "A"): {(): 0},
        ("Refused envelopes", "A"): {(): some},
        ("Log not shipped", "A"): {(): not_long},
        ("By replica", "A"): dict.fromkeys(both, 2),
        ("By replica", "B"): dict.fromkeys(both, 1),
        ("By replica", "C"): dict.fromkeys(both, not_long),
        ("By replica", "D"): dict.fromkeys(both, at_most(100)),
        ("By replica", "E"): dict.fromkeys(both, 0),
        ("Version in force", "A"): dict.fromkeys(both, 2),
        ("Lag of the policy", "A"): dict.fromkeys(both, not_long),
        ("Decisions by replica", "A"): {(each, verdict): some for each in (one, two) for verdict in ("allow", "deny")},
        ("Refused, by replica and reason", "A"): {(each, "signature"): some for each in (one, two)},
        ("Refused, by replica and reason", "B"): {(each, "malformed"): ROUNDS for each in (one, two)},
        ("Shares of limits", "A"): {
            (one, "bytes_per_hour", TOOL): 0, (one, "concurrent", TOOL): 0,
            (one, "requests_per_minute", TOOL): at_most(PER_MINUTE),
        },
        ("Leases taken", "A"): {(one, "taken"): USES},
        ("Questions for shares", "A"): {(one, "more"): some},
        ("Decisions of people", "A"): {("two", "approved"): 1},
        ("Log not shipped yet", "A"): dict.fromkeys(both, at_most(100)),
    }  # fmt: skip


def key(labels: Labels) -> Key:
    return tuple(value for name, value in sorted(labels.items()) if name not in {"__name__", "job"})


@pytest.mark.slow
def test_every_panel_of_the_fleet_shows_what_happened(scene: FleetScene) -> None:
    prometheus = scene.prometheus
    scene.once()
    for _ in range(ROUNDS):
        scene.round()
        prometheus.scraped({"cloned-proxy"})

    wanted = expected(*scene.instances)
    asked = {(target.panel, target.ref): target.expr for target in targets(["fleet"])}
    assert asked.keys() == wanted.keys()
    for name, expr in asked.items():
        answers = prometheus.values(expr)
        if name[0] == "By replica":  # a row for each: any other label would make a second one
            assert all(labels.keys() == {"instance"} for labels, _ in answers), (name, answers)
        found = {key(labels): value for labels, value in answers}
        # A store that has just begun gives nothing for a while; how often it was asked meanwhile depends on the moment.
        if name[0] in {"Questions for shares", "Leases taken"}:
            found = {series: value for series, value in found.items() if series[-1] in {"more", "taken"}}
        assert found.keys() == wanted[name].keys(), (name, found)
        for series, want in wanted[name].items():
            assert want(found[series]) if callable(want) else found[series] == want, (name, series, found[series])

    refusals = ("ClonedProxyFleetRefused", "ClonedProxyFleetTokensRefused")
    prometheus.wait(
        lambda: [len(prometheus.firing().get(alert, [])) for alert in refusals] == [2, 2], "both tell of refusals", 60
    )
    assert not {"ClonedProxyFleetBehind", "ClonedProxyFleetDenying"} & prometheus.firing().keys()

    scene.store.kill()
    prometheus.wait(lambda: "ClonedProxyFleetDisconnected" in prometheus.firing(), "the lost store is told", 60)
    cut_off = asked["Cut off", "A"]
    prometheus.wait(lambda: prometheus.values(cut_off) == [({}, 2)], "both are cut off", 60)
