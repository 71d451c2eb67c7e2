"""What was just written, for who sends it on: never more than the bytes allowed, and never with a gap."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cloned_proxy.store.audit import audit_group
from cloned_proxy.store.audit.audit_group import Forget, GroupWriter
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_retention import Retention
from cloned_proxy.store.audit.audit_tail import AuditTail, Lines, Row
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.telemetry.events import PolicyEvent

MUCH = 1 << 20


def rows(first: int, last: int, body: str = "{}") -> list[Row]:
    return [(seq, body, f"{seq:064}") for seq in range(first, last + 1)]


def lines(first: int, last: int, body: str = "{}") -> Lines:
    return Lines(first, last, "\n".join(f"{seq:064}{body}" for seq in range(first, last + 1)).encode())


def test_what_follows_is_put_together() -> None:
    tail = AuditTail()
    tail.add(rows(1, 2))
    tail.add(rows(3, 3))
    assert tail.after(0, most=10, most_bytes=MUCH) == lines(1, 3)
    assert tail.after(2, most=10, most_bytes=MUCH) == lines(3, 3)
    assert tail.after(1, most=10, most_bytes=MUCH) is None, "what lay before is forgotten"
    assert tail.after(3, most=10, most_bytes=MUCH) is None


def test_a_gap_and_the_bounds_end_a_piece() -> None:
    tail = AuditTail()
    tail.add(rows(1, 2))
    tail.add(rows(4, 5))
    tail.add(rows(6, 7))
    assert tail.after(0, most=10, most_bytes=MUCH) == lines(1, 2)
    assert tail.after(2, most=10, most_bytes=MUCH) is None
    assert tail.after(3, most=3, most_bytes=MUCH) == lines(4, 5)
    assert tail.after(3, most=4, most_bytes=len(lines(4, 5).packed) + 1) == lines(4, 5)
    assert tail.after(3, most=4, most_bytes=1) is None


def test_many_rows_are_cut() -> None:
    tail = AuditTail()
    tail.add(rows(1, 2100))
    assert tail.after(0, most=1000, most_bytes=MUCH) == lines(1, 1000)


def test_the_oldest_goes_where_nobody_takes_it() -> None:
    tail = AuditTail(most_bytes=2 * len(lines(1, 1).packed) + 2)
    for seq in (1, 2, 3):
        tail.add(rows(seq, seq))
    assert tail.after(0, most=10, most_bytes=MUCH) is None
    assert tail.after(1, most=10, most_bytes=MUCH) == lines(2, 3)
    tail.add(rows(4, 4, "x" * 1000))
    assert tail.after(3, most=10, most_bytes=MUCH) is None, "larger than all that is allowed"


def test_an_odd_body_is_left_to_the_disk_or_is_the_bytes_that_lie_there() -> None:
    tail = AuditTail()
    tail.add(rows(1, 1, "a\nb"))
    tail.add(rows(2, 2, "\ud800"))
    assert tail.after(0, most=10, most_bytes=MUCH) is None
    found = tail.after(1, most=10, most_bytes=MUCH)
    assert found == Lines(2, 2, f"{2:064}".encode() + b"\xed\xa0\x80")


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    database, tail = open_database(tmp_path / "state.db"), AuditTail()
    writer = GroupWriter(database, Retention(database, days=90, max_bytes=1 << 30, clock=lambda: 1000.0), tail)
    event = PolicyEvent(1000.0, "edit", "cli:me", "allow a.example", "", "v")
    database.execute(
        "CREATE TRIGGER full BEFORE UPDATE ON meta WHEN old.key = 'head_hash' BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.Error, match="full"):
        writer.write([event], even_empty=False)
    assert tail.after(0, most=10, most_bytes=MUCH) is None
    database.execute("DROP TRIGGER full")
    writer.write([event], even_empty=False)
    found = tail.after(0, most=10, most_bytes=MUCH)
    assert found is not None
    assert (found.first, found.last) == (1, 1)
    database.close()


class Uncleared(list[Row]):
    """Rows that stay, as in a build that forgets to forget them."""

    def clear(self) -> None: ...


@pytest.mark.parametrize("broken", [False, True])
def test_what_was_taken_back_is_not_in_the_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """A group fails in its middle; another process writes under its number; then the group is tried again."""
    path = tmp_path / "state.db"
    database, tail = open_database(path), AuditTail()
    group = GroupWriter(database, Retention(database, days=36_500, max_bytes=1 << 40, clock=lambda: 2000.0), tail)
    if broken:
        group._rows = Uncleared()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(audit_group, "forget_rules", full)
        with pytest.raises(sqlite3.OperationalError):
            group.write([event("a.example"), Forget(("r-1",))], even_empty=False)
    with AuditLog(path) as log:
        log.append(event("b.example"))
    assert group.write([event("c.example")], even_empty=False) == []
    stored = database.execute("SELECT seq, body, hash FROM entries ORDER BY seq").fetchall()
    assert [seq for seq, _, _ in stored] == [1, 2]
    kept = [row for piece in tail._kept for row in piece.rows]
    assert (kept == stored[1:]) is not broken
    assert any("a.example" in body for _, body, _ in kept) is broken
    database.close()


def event(host: str) -> PolicyEvent:
    return PolicyEvent(1000.0, "edit", "cli:me", f"allow {host}", "", "v")
