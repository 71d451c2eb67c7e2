"""A lease ends by the clock that comes first, whatever happens to the other one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.rule import HostPattern, PatternKind, Rule
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.leases import lease_time
from cloned_proxy.store.leases.lease_time import LeaseEnd, LeaseTimes
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry
from cloned_proxy.store.workspaces.workspace import Workspace

NOW = 1_800_000_000.0
HOUR = 3600.0
YEAR = 365 * 24 * HOUR


class Clocks:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall = NOW
        self.up = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def _rule(expires: float | None, name: str = "r-1", *, denies: bool = False) -> Rule:
    return Rule(name, "global", denies, HostPattern(PatternKind.EXACT, "a.test"), expires=expires)


def _times(clocks: Clocks, known: Iterable[LeaseEnd] = (), expires: float = NOW + HOUR) -> LeaseTimes:
    times = LeaseTimes(known, clock=lambda: clocks.wall, uptime=lambda: clocks.up)
    times.follow([_rule(expires)])
    return times


def _over(times: LeaseTimes) -> bool:
    times.look()
    return "r-1" in times.ended


def test_it_lasts_as_long_as_it_says(clocks: Clocks) -> None:
    times = _times(clocks)
    clocks.pass_by(HOUR - 1)
    assert not _over(times)
    clocks.pass_by(1)
    assert _over(times)


@pytest.mark.parametrize("back", [60.0, HOUR, YEAR])
def test_a_wall_clock_that_is_set_back_lengthens_nothing(clocks: Clocks, back: float) -> None:
    times = _times(clocks)
    clocks.pass_by(HOUR / 2)
    times.look()
    clocks.wall -= back
    clocks.pass_by(HOUR / 2 - 1)
    assert not _over(times)
    clocks.pass_by(1)
    assert _over(times)


def test_a_wall_clock_that_creeps_back_lengthens_nothing(clocks: Clocks) -> None:
    times = _times(clocks)
    for _ in range(60):
        clocks.pass_by(HOUR / 60)
        clocks.wall -= HOUR / 60
        times.look()
    assert _over(times)


def test_a_wall_clock_that_jumps_ahead_ends_it_and_its_return_does_not_revive_it(clocks: Clocks) -> None:
    times = _times(clocks)
    clocks.wall += YEAR
    assert _over(times)
    clocks.wall -= YEAR
    assert _over(times)
    times.follow([_rule(NOW + 2 * HOUR)])
    assert not _over(times), "a renewed lease is another one"


def test_sleep_counts(clocks: Clocks) -> None:
    times = _times(clocks)
    clocks.up += 2 * HOUR  # the time since boot goes on in sleep; the wall clock was set to look as if nothing had been
    assert _over(times)


def test_a_restart_with_the_clock_set_back_goes_on_where_it_was(clocks: Clocks) -> None:
    times = _times(clocks)
    clocks.pass_by(HOUR / 2)
    times.look()
    kept = times.due()
    assert kept is not None
    clocks.pass_by(HOUR / 4)
    clocks.wall -= YEAR
    again = _times(clocks, kept)
    clocks.pass_by(HOUR / 4 - 1)
    assert not _over(again)
    clocks.pass_by(1)
    assert _over(again)


def test_after_a_boot_with_the_clock_set_back_it_has_what_it_had(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = _times(clocks)
    clocks.pass_by(HOUR - 60)
    times.look()
    kept = times.due()
    assert kept is not None
    monkeypatch.setattr(lease_time, "boot_id", lambda: "another boot")
    clocks.wall, clocks.up = NOW - YEAR, 5.0
    again = _times(clocks, kept)
    assert not _over(again)
    clocks.pass_by(60)
    assert _over(again)


def test_an_end_is_kept_over_restarts(clocks: Clocks) -> None:
    times = _times(clocks)
    clocks.pass_by(HOUR)
    times.look()
    kept = times.due()
    assert kept is not None
    clocks.wall = NOW - YEAR
    assert _over(_times(clocks, kept))


def test_what_is_left_is_kept_often_enough_and_not_each_second(clocks: Clocks) -> None:
    times = _times(clocks)
    kept = 0
    for _ in range(60):
        clocks.pass_by(1)
        times.look()
        kept += times.due() is not None
    assert 5 <= kept <= 8
    times.follow([])
    times.due()
    clocks.pass_by(100)
    times.look()
    assert times.due() is None, "without leases nothing is written"


def test_others_know_better_when_they_know_of_less(clocks: Clocks) -> None:
    times = _times(clocks)
    (own,) = times.due() or ()
    times.learn([LeaseEnd("r-1", own.expires, 10.0, own.boot, own.uptime), LeaseEnd("r-9", 1.0, -1.0, "", 0.0)])
    times.learn([LeaseEnd("r-1", own.expires, 500.0, own.boot, own.uptime)])
    times.learn([LeaseEnd("r-1", own.expires + 1, -5.0, own.boot, own.uptime)])
    clocks.pass_by(9)
    assert not _over(times)
    clocks.pass_by(1)
    assert _over(times)
    assert set(times.ended) == {"r-1"}


def test_a_deny_with_an_end_is_no_lease(clocks: Clocks) -> None:
    times = LeaseTimes(clock=lambda: clocks.wall, uptime=lambda: clocks.up)
    times.follow([_rule(NOW - 1, denies=True), _rule(None, "r-2")])
    assert not times.ended


async def test_a_lease_begins_when_it_is_granted_not_when_somebody_serves(tmp_path: Path, clocks: Clocks) -> None:
    workspace = Workspace(tmp_path / "ws")
    service = EditService(workspace, workspace.policy_file, clock=lambda: clocks.wall)
    entry = Entry("a.test", expires=NOW + HOUR)
    (rule_id,) = service.add([Addition((entry,))], actor="cli:me", why="").rule_ids
    with AuditLog(workspace.state_db) as log:
        (granted,) = log.lease_ends()
    assert (granted.rule, granted.left) == (rule_id, HOUR)
    # The real time since boot stands behind `granted`; two hours later, with the wall clock set back to the beginning:
    state = State(workspace.state_db, clock=lambda: NOW, uptime=lambda: granted.uptime + 2 * HOUR)
    state.leases.keep([_rule(NOW + HOUR, rule_id)])
    assert rule_id in state.leases.ended
    await state.follow_leases()
    state.close()
    with AuditLog(workspace.state_db) as log:
        assert log.lease_ends()[0].left <= 0
    service.add([Addition((Entry("a.test", expires=NOW + 2 * HOUR),))], actor="cli:me", why="")
    with AuditLog(workspace.state_db) as log:
        assert log.lease_ends()[0].left > HOUR, "renewed"
