"""What each tool has in use, alone and over several processes."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloned_proxy.policy.deciding.decide import Usage
from cloned_proxy.policy.model.model import NO_LIMITS, Limits
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.grants.budget import ACCOUNT_WIDTH, Budgets
from cloned_proxy.proxy.grants.cells import SharedCells, clear_first_cells

TOOL = "demo@v1"
ADDRESS = ipaddress.ip_address("127.0.0.1")
ALLOWED = Decision(
    Verdict.ALLOW, Reason.ALLOWED, Request("127.0.0.1", 443), TOOL, host=Host(text="127.0.0.1", address=ADDRESS)
)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def siblings(directory: Path, clock: Clock, workers: int = 2) -> list[Budgets]:
    return [Budgets(clock, SharedCells(directory, own=number, workers=workers)) for number in range(workers)]


def take(budgets: Budgets, limits: Limits = NO_LIMITS, tool: str | None = TOOL) -> bool:
    decision, charge = budgets.open(ALLOWED, tool, limits)
    assert decision.passes == (charge is not None)
    return decision.passes


def test_a_refused_decision_takes_nothing(clock: Clock) -> None:
    budgets = Budgets(clock)
    denied = Decision(Verdict.DENY, Reason.EXPLICIT_DENY, ALLOWED.request, TOOL)
    assert budgets.open(denied, TOOL, NO_LIMITS) == (denied, None)
    assert budgets.usage(TOOL) == Usage(0, 0, 0)


def test_tools_do_not_share_an_account(clock: Clock) -> None:
    budgets = Budgets(clock)
    assert take(budgets)
    assert budgets.usage("other@v1") == Usage(0, 0, 0)
    assert budgets.usage(None) == Usage(0, 0, 0)


def test_a_tool_named_like_no_tool_has_an_account_of_its_own(tmp_path: Path, clock: Clock) -> None:
    first, second = siblings(tmp_path, clock)
    assert take(first, tool=None)
    assert second.usage("anonymous").concurrent == 0
    assert second.usage(None).concurrent == 1


def test_a_place_is_given_back_once(clock: Clock) -> None:
    budgets = Budgets(clock)
    _, charge = budgets.open(ALLOWED, TOOL, Limits(concurrent=1))
    assert charge is not None
    assert not take(budgets, Limits(concurrent=1))
    assert [charge.close(), charge.close()] == [True, False]
    assert budgets.usage(TOOL).concurrent == 0
    assert take(budgets, Limits(concurrent=1))


def test_requests_leave_the_window_after_a_minute_and_never_before(clock: Clock) -> None:
    budgets, limits = Budgets(clock), Limits(requests_per_minute=2)
    clock.now = 1000.9
    assert take(budgets, limits)
    clock.now = 1030.0
    assert take(budgets, limits)
    assert not take(budgets, limits)
    assert budgets.retry_after(TOOL, limits) == 31  # until 1061, when the first one is a minute old for certain
    clock.now = 1060.95
    assert not take(budgets, limits)
    clock.now = 1061.0
    assert take(budgets, limits)
    assert not take(budgets, limits)


def test_bytes_leave_the_window_after_an_hour_and_never_before(clock: Clock) -> None:
    budgets, limits = Budgets(clock), Limits(bytes_per_hour=100)
    clock.now = 6000.0
    _, charge = budgets.open(ALLOWED, TOOL, limits)
    assert charge is not None
    charge.up(60)
    charge.down(60)
    assert (charge.bytes_up, charge.bytes_down) == (60, 60)
    assert not take(budgets, limits)
    assert budgets.retry_after(TOOL, limits) == 61 * 60
    clock.now = 6000.0 + 61 * 60 - 1
    assert not take(budgets, limits)
    clock.now += 1
    assert take(budgets, limits)


@pytest.mark.parametrize("rounds", [1, 2, 600])
def test_a_window_starts_afresh_where_its_ring_comes_round(clock: Clock, rounds: int) -> None:
    budgets = Budgets(clock)
    for _ in range(5):
        assert take(budgets)
    clock.now += 61 * rounds
    assert budgets.usage(TOOL).requests_last_minute == 0
    assert take(budgets)
    assert budgets.usage(TOOL).requests_last_minute == 1


@pytest.mark.parametrize("limits", [Limits(concurrent=3), Limits(requests_per_minute=3)])
def test_a_limit_holds_for_the_sum_over_workers(tmp_path: Path, clock: Clock, limits: Limits) -> None:
    workers = siblings(tmp_path, clock, 3)
    assert [take(workers[turn % 3], limits) for turn in range(5)] == [True, True, True, False, False]


def test_bytes_count_for_the_sum_over_workers(tmp_path: Path, clock: Clock) -> None:
    first, second = siblings(tmp_path, clock)
    _, charge = first.open(ALLOWED, TOOL, NO_LIMITS)
    assert charge is not None
    charge.down(500)
    assert second.usage(TOOL).bytes_last_hour == 500
    assert not take(second, Limits(bytes_per_hour=500))


def test_a_dead_worker_gives_back_what_was_open_and_nothing_else(tmp_path: Path, clock: Clock) -> None:
    first, second = siblings(tmp_path, clock)
    for budgets in (first, first, second):
        assert take(budgets)
    clear_first_cells(tmp_path, 0)
    assert second.usage(TOOL) == Usage(1, 3, 0)
    successor = Budgets(clock, SharedCells(tmp_path, own=0, workers=2))
    assert take(successor)
    assert second.usage(TOOL) == Usage(2, 4, 0)


def test_nobody_takes_while_a_sibling_looks(tmp_path: Path, clock: Clock) -> None:
    first, _ = siblings(tmp_path, clock)
    sibling = SharedCells(tmp_path, own=1, workers=2).open(f"tool {TOOL}", ACCOUNT_WIDTH)
    taking = threading.Thread(target=take, args=(first,))
    with sibling.turn:
        taking.start()
        taking.join(0.2)
        assert taking.is_alive()
        assert sum(sibling.column(0)) == 0
    taking.join(10)
    assert sum(sibling.column(0)) == 1


_GRABBER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.cells import SharedCells
from cloned_proxy.policy.model.model import Limits
from tests.proxy.grants.test_budget import ALLOWED
directory, own, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
budgets = Budgets(time.monotonic, SharedCells(directory, own=own, workers=workers))
limits = Limits(concurrent=6000)
(directory / f"up-{own}").touch()
while len(list(directory.glob("up-*"))) < workers:
    time.sleep(0.001)
taken = 0
for _ in range(6000):
    taken += budgets.open(ALLOWED, "demo@v1", limits)[1] is not None
    time.sleep(0)  # so that one does not take all before the next begins
print(taken)
"""


def test_processes_that_race_for_the_places_take_exactly_as_many_as_there_are(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    running = [
        subprocess.Popen([sys.executable, "-c", _GRABBER, str(tmp_path), str(own), "3", root], stdout=subprocess.PIPE)
        for own in range(3)
    ]
    taken = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sum(taken) == 6000
    assert sorted(taken)[1] > 0  # they did race
