from __future__ import annotations

from cloned_proxy.store.audit.audit_backlog import Backlog


def grow(backlog: Backlog, **counts: int) -> None:
    for owner, count in counts.items():
        for _ in range(count):
            backlog.grew(owner)


def test_a_short_queue_holds_nobody_up() -> None:
    backlog = Backlog(20)
    grow(backlog, loud=9)
    assert not backlog.behind("loud")
    grow(backlog, loud=1)
    assert backlog.behind("loud")


def test_shares_are_equal_among_those_who_have_something_waiting() -> None:
    backlog = Backlog(20)
    grow(backlog, loud=8, second=4, third=1)
    assert [backlog.behind(owner) for owner in ("loud", "second", "third", None)] == [True, True, False, False]


def test_what_is_written_frees_its_owner() -> None:
    backlog = Backlog(20)
    grow(backlog, loud=12, quiet=2)
    backlog.shrank(["loud"] * 10)
    assert not backlog.behind("loud")
    grow(backlog, quiet=10)
    assert backlog.behind("quiet")
    assert not backlog.behind("loud")


def test_the_smallest_queue_still_lets_everybody_have_one() -> None:
    backlog = Backlog(1)
    assert not backlog.behind("a")
    backlog.grew("a")
    assert backlog.behind("a")
    assert not backlog.behind("b")
