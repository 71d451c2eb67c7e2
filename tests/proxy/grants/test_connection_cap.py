from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.proxy.grants.cells import OwnCells, SharedCells, clear_first_cells
from cloned_proxy.proxy.grants.connection_cap import ConnectionCap, PartyCounts
from cloned_proxy.proxy.grants.fair_share import fair_share


def enter(cap: ConnectionCap, party: object, count: int, *, contended: bool = False) -> int:
    """How many of so many found a place."""
    return sum(cap.enter(party, contended=contended) for _ in range(count))


@pytest.mark.parametrize(("places", "share"), [(1, 1), (2, 2), (4, 4), (5, 4), (10, 8), (20_000, 16_000)])
def test_a_share_is_four_fifths_rounded_up(places: int, share: int) -> None:
    assert fair_share(places) == share


def test_the_cap_holds_and_a_place_that_is_left_is_free() -> None:
    cap = ConnectionCap(3, OwnCells())
    assert enter(cap, "host", 5) == len(cap) == 3
    assert cap.full
    cap.leave("host")
    assert not cap.full
    assert enter(cap, "host", 5) == 1


def test_a_listener_leaves_a_fifth_to_the_others() -> None:
    cap = ConnectionCap(10, OwnCells())
    assert enter(cap, "greedy", 20, contended=True) == 8
    assert cap.has_its_share("greedy")
    assert enter(cap, "other", 20, contended=True) == 2
    cap.leave("greedy")
    assert enter(cap, "greedy", 20, contended=True) == 1


def test_a_listener_that_is_alone_may_take_everything() -> None:
    assert enter(ConnectionCap(10, OwnCells()), "only", 20) == 10


def test_the_cap_holds_over_workers_and_a_dead_one_holds_no_place(tmp_path: Path) -> None:
    caps = [ConnectionCap(10, SharedCells(tmp_path, own=number, workers=2)) for number in range(2)]
    assert enter(caps[0], "host", 6) == 6
    assert enter(caps[1], "host", 6) == 4
    clear_first_cells(tmp_path, 0)
    assert enter(caps[1], "host", 20) == 6


class _Racing(PartyCounts):
    """Of a thread of the plane that looks before we count, and counts at that very moment."""

    def __init__(self) -> None:
        self.taken = 0

    def count(self, party: object, amount: int) -> None:
        self.taken = max(self.taken, int(amount > 0))

    def elsewhere(self, party: object) -> int:
        return self.taken


def test_two_that_race_for_the_last_place_of_a_share_do_not_both_take_it() -> None:
    racing = _Racing()
    cap = ConnectionCap(5, OwnCells(), racing)
    assert enter(cap, "caller", 3, contended=True) == 3
    assert racing.taken == 1
    assert cap.held_by("caller") == 4
    racing.taken = 0  # as it is seen before: three of four
    assert not cap.enter("caller", contended=True)
    assert len(cap) == 3
