"""Many entries of one call become one line, within a bounded memory."""

from __future__ import annotations

from typing import Any

import pytest

from cloned_proxy.cli.show import retries
from cloned_proxy.cli.show.retries import FollowedRetries, retried, settled, together
from cloned_proxy.store.audit.audit_log import LogEntry


def entry(seq: int, at: float = 0.0, host: str = "a", amends: str = "", **other: Any) -> LogEntry:
    body = {"type": "decision", "id": f"d{seq}", "at": at, "tool": None, "host": host, "port": 443, "method": "CONNECT",
            "path": "", "verdict": "deny", "reason": "host_not_allowed", "amends": amends}  # fmt: skip
    return LogEntry(seq, "", body | other)


def test_what_is_replaced_goes_and_the_order_stays() -> None:
    entries = [
        entry(1),
        entry(2),
        entry(3, amends="d1"),
        entry(4, amends="gone"),
        LogEntry(5, "", {"type": "run", "at": 0.0}),
    ]
    assert [each.seq for each in settled(entries)] == [2, 3, 4, 5]


def test_entries_of_older_programs_are_read() -> None:
    old = entry(1)
    del old.body["amends"]
    assert list(settled([old])) == [old]


def test_nothing_is_held_for_longer_than_it_can_be_replaced() -> None:
    given = []

    def entries() -> Any:
        yield entry(1, at=0.0)
        yield entry(2, at=100.0)
        given.append("asked for the third")
        yield entry(3, at=100.0, amends="d1")

    found = settled(entries())
    assert next(found).seq == 1
    assert given == []
    assert [each.seq for each in found] == [2, 3]


def test_of_very_many_entries_only_so_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_MOST_HELD", 3)
    assert [each.seq for each in settled(map(entry, range(1, 9)))] == list(range(1, 9))
    assert [each.seq for each, _ in together(entry(n, host=str(n)) for n in range(1, 9))] == list(range(1, 9))


def test_retries_are_counted_at_the_newest() -> None:
    denials = [entry(1, host="a"), entry(2, host="b"), entry(3, host="a"), entry(4, host="a", reason="ip_literal")]
    assert [(each.seq, times) for each, times in together(denials)] == [(2, 1), (3, 2), (4, 1)]


def test_of_two_secrets_that_leak_by_one_call_each_is_told() -> None:
    entries = [entry(seq, reason="secret_leak", hint=name) for seq, name in ((1, "bait"), (2, "key"), (3, "key"))]
    assert [(each.seq, times) for each, times in together(entries)] == [(1, 1), (3, 2)]
    assert [(each.seq, times) for each, times in retried(entries)] == [(1, 1), (2, 2)]


def asked(seq: int, at: float = 0.0, **other: Any) -> LogEntry:
    return entry(seq, at, reason="identity_missing", **other)


@pytest.mark.parametrize(
    ("entries", "left"),
    [
        ([asked(1), entry(2, tool="t", verdict="allow", reason="allowed")], [2]),
        ([asked(1), entry(2, tool="t")], [2]),
        ([asked(1), asked(2), entry(3, tool="t")], [1, 3]),
        ([asked(1), entry(2, host="b"), entry(3, tool="t")], [2, 3]),
        ([asked(1), entry(2, at=11.0, tool="t")], [1, 2]),
        ([asked(1), entry(2, tool="t", host="b")], [1, 2]),
        ([asked(1), entry(2)], [1, 2]),
        ([asked(1, tool="t"), entry(2, tool="t")], [1, 2]),
        ([entry(1), entry(2, tool="t")], [1, 2]),
    ],
)
def test_a_question_that_was_answered_is_one_line_with_its_answer(entries: list[LogEntry], left: list[int]) -> None:
    assert [each.seq for each in settled(entries)] == left


def test_retries_of_a_denied_call_are_one_line_where_they_began() -> None:
    run = LogEntry(3, "", {"type": "run", "at": 1.0})
    allowed = [entry(n, at=2.0, verdict="allow", reason="allowed") for n in (5, 6)]
    entries = [entry(1), entry(2, host="b"), run, entry(4, at=2.0), *allowed, entry(7, at=61.0), entry(8, at=122.0)]
    assert [(each.seq, times) for each, times in retried(entries)] == [(1, 3), (2, 1), (3, 1), (5, 1), (6, 1), (8, 1)]


def test_of_retries_no_more_is_held_than_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def entries() -> Any:
        for seq in range(1, 5):
            taken.append(seq)
            yield entry(seq, at=100.0 * seq, host=str(seq))

    assert next(retried(entries()))[0].seq == 1
    assert taken == [1, 2]
    monkeypatch.setattr(retries, "_MOST_HELD", 3)
    assert [each.seq for each, _ in retried(entry(n, host=str(n)) for n in range(1, 9))] == list(range(1, 9))


def test_where_the_log_is_followed_the_first_is_told_at_once_and_the_count_when_they_are_over() -> None:
    calls = FollowedRetries()

    def told(now: float, *entries: LogEntry) -> list[tuple[int, int]]:
        return [(each.seq, times) for each, times in calls.news(entries, now)]

    assert told(0.0, entry(1), entry(2, host="b")) == [(1, 1), (2, 1)]
    assert told(1.0, entry(3, at=1.0)) == []
    assert told(4.0, entry(4, at=4.0), entry(5, at=4.0, verdict="allow", reason="allowed")) == [(5, 1)]
    assert told(9.1) == [(4, 3)]
    assert told(60.0, entry(6, at=60.0)) == [(6, 1)]
    assert told(70.0) == []
