"""Many entries of one call become one line, within a bounded memory."""

from __future__ import annotations

from typing import Any

import pytest

from cloned_proxy.cli import retries
from cloned_proxy.cli.retries import settled, together
from cloned_proxy.store.audit_log import Entry


def entry(seq: int, at: float = 0.0, host: str = "a", amends: str = "", **other: Any) -> Entry:
    body = {"type": "decision", "id": f"d{seq}", "at": at, "tool": None, "host": host, "port": 443, "method": "CONNECT",
            "path": "", "reason": "host_not_allowed", "amends": amends}  # fmt: skip
    return Entry(seq, "", body | other)


def test_what_is_replaced_goes_and_the_order_stays() -> None:
    entries = [
        entry(1),
        entry(2),
        entry(3, amends="d1"),
        entry(4, amends="gone"),
        Entry(5, "", {"type": "run", "at": 0.0}),
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
