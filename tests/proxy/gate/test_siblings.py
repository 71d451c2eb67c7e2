"""Several workers, one set of places: what one of them knows of the others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, Principal
from cloned_proxy.proxy.gate.siblings import Siblings
from cloned_proxy.proxy.grants.cells import OwnCells, SharedCells, clear_first_cells
from cloned_proxy.proxy.grants.connection_cap import ConnectionCap
from cloned_proxy.proxy.transport.listener import Listener

RUN = Principal("demo@v1", "run-1", CallerSource.LISTENER)


@pytest.fixture
def host() -> Iterator[Listener]:
    with socket.socket() as unbound:
        yield Listener(unbound, ANONYMOUS, "127.0.0.1:8081")


def enter(cap: ConnectionCap, party: object, count: int) -> int:
    """How many of so many found a place, beside another listener."""
    return sum(cap.enter(party, contended=True) for _ in range(count))


def workers(directory: Path) -> tuple[list[Siblings], list[ConnectionCap]]:
    """Two, with ten places."""
    cells = [SharedCells(directory, own=number, workers=2) for number in range(2)]
    siblings = [Siblings(each) for each in cells]
    return siblings, [ConnectionCap(10, each, sibling) for each, sibling in zip(cells, siblings, strict=True)]


def test_the_share_of_the_hosts_listener_is_one_over_all_workers(tmp_path: Path, host: Listener) -> None:
    _, caps = workers(tmp_path)
    assert enter(caps[0], host.party, 5) == 5
    assert enter(caps[1], host.party, 9) == 3
    assert all(cap.has_its_share(host.party) for cap in caps)
    assert enter(caps[0], RUN, 5) == 2
    caps[1].leave(host.party)
    assert not caps[0].has_its_share(host.party)
    assert enter(caps[0], host.party, 5) == 1


def test_a_run_is_in_one_worker_and_counted_there(tmp_path: Path) -> None:
    _, caps = workers(tmp_path)
    assert enter(caps[0], RUN, 20) == 8
    assert not caps[1].has_its_share(RUN)


def test_a_dead_worker_holds_no_share_and_waits_no_more(tmp_path: Path, host: Listener) -> None:
    siblings, caps = workers(tmp_path)
    assert enter(caps[0], host.party, 8) == 8
    siblings[0].listen(2)
    siblings[0].wait(waiting=True)
    clear_first_cells(tmp_path, 0)
    assert not siblings[1].contended
    assert not siblings[1].somebody_waits
    assert enter(caps[1], host.party, 20) == 8


def test_a_listener_in_one_worker_makes_the_places_contended_in_all(tmp_path: Path) -> None:
    siblings, _ = workers(tmp_path)
    for each in siblings:
        each.listen(1)
    assert not any(each.contended for each in siblings)
    siblings[0].listen(2)
    assert all(each.contended for each in siblings)
    siblings[0].listen(1)
    assert not any(each.contended for each in siblings)


def test_who_waits_in_one_worker_is_known_in_all(tmp_path: Path) -> None:
    siblings, _ = workers(tmp_path)
    siblings[0].wait(waiting=True)
    assert all(each.somebody_waits for each in siblings)
    siblings[1].wait(waiting=False)
    assert all(each.somebody_waits for each in siblings)
    siblings[0].wait(waiting=False)
    assert not any(each.somebody_waits for each in siblings)


def test_a_process_that_serves_alone_counts_nobody_twice(host: Listener) -> None:
    cells = OwnCells()
    siblings = Siblings(cells)
    cap = ConnectionCap(10, cells, siblings)
    with ExitStack() as stack:
        other = Listener(stack.enter_context(socket.socket()), ANONYMOUS, "second")
        siblings.listen(2)
        assert siblings.contended
        assert enter(cap, host.party, 20) == 8
        assert enter(cap, other.party, 20) == 2
