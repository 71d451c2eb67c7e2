"""What was just written, for who sends it on: never more than is allowed, and never with a gap."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from cloned_proxy.store.audit import audit_group
from cloned_proxy.store.audit.audit_group import Forget, GroupWriter
from cloned_proxy.store.audit.audit_log import AuditLog, append_bodies
from cloned_proxy.store.audit.audit_retention import Retention
from cloned_proxy.store.audit.audit_tail import AuditTail, Held, Written
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.telemetry.events import Entries, PolicyEvent

MUCH = 1 << 20


def written(first: int, last: int, text: str = "[]") -> Written:
    return Written(first, last, f"{last:064}", text)


def held(first: int, last: int, text: str = "[]") -> Held:
    return Held(first, last, f"{last:064}", text.encode())


def test_what_follows_comes_together() -> None:
    tail = AuditTail()
    tail.add(written(1, 2))
    tail.add(written(3, 3))
    assert tail.after(0, most=MUCH) == [held(1, 2), held(3, 3)]
    assert tail.after(2, most=MUCH) == [held(3, 3)]
    assert tail.after(1, most=MUCH) == [], "what lay before is forgotten"
    assert tail.after(3, most=MUCH) == []


def test_a_gap_and_the_bound_end_it() -> None:
    tail = AuditTail()
    for first in (1, 4, 6):
        tail.add(written(first, first + 1, "x" * 100))
    assert tail.after(0, most=MUCH) == [held(1, 2, "x" * 100)]
    assert tail.after(2, most=MUCH) == []
    assert tail.after(3, most=200) == [held(4, 5, "x" * 100), held(6, 7, "x" * 100)]
    assert tail.after(3, most=199) == [held(4, 5, "x" * 100)]
    assert tail.after(3, most=99) == []


def test_a_place_in_what_was_written_together_is_none_of_its_ends() -> None:
    tail = AuditTail()
    tail.add(written(1, 3))
    tail.add(written(4, 5))
    assert tail.after(2, most=MUCH) == []
    assert tail.after(3, most=MUCH) == [held(4, 5)]


def test_the_oldest_goes_where_nobody_takes_it() -> None:
    tail = AuditTail(most=200)
    for seq in (1, 2, 3):
        tail.add(written(seq, seq, "x" * 100))
    assert tail.after(0, most=MUCH) == []
    assert [each.first for each in tail.after(1, most=MUCH)] == [2, 3]
    tail.add(written(4, 4, "x" * 201))
    assert tail.after(3, most=MUCH) == [], "larger than all that is allowed"


def test_what_is_appended_is_told_as_it_lies_on_the_disk(tmp_path: Path) -> None:
    """Also line breaks, and half a surrogate."""
    database = open_database(tmp_path / "state.db")
    database.execute("BEGIN IMMEDIATE")
    (first,) = append_bodies(database, Entries(['{"at":1.0}', '{"at":\n2.0,"why":"\ud800\u00fc"}'], []))
    (second,) = append_bodies(database, Entries(["{}"], []))
    assert append_bodies(database, Entries([], [])) == []
    database.execute("COMMIT")
    database.text_factory = lambda raw: raw.decode(errors="surrogatepass")
    there = [list(row) for row in database.execute("SELECT seq, body, hash FROM entries")]
    assert json.loads(first.text) + json.loads(second.text) == there
    assert (first.first, first.last, first.last_hash) == (1, 2, there[1][2])
    assert (second.first, second.last, second.last_hash) == (3, 3, there[2][2])
    assert first.text.isascii()
    database.close()


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    database, tail = open_database(tmp_path / "state.db"), AuditTail()
    writer = GroupWriter(database, Retention(database, days=90, max_bytes=1 << 30, clock=lambda: 1000.0), tail)
    event = PolicyEvent(1000.0, "edit", "cli:me", "allow a.example", "", "v")
    database.execute(
        "CREATE TRIGGER full BEFORE UPDATE ON meta WHEN old.key = 'head_hash' BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.Error, match="full"):
        writer.write([event], even_empty=False)
    assert tail.after(0, most=MUCH) == []
    database.execute("DROP TRIGGER full")
    writer.write([event], even_empty=False)
    assert [(each.first, each.last) for each in tail.after(0, most=MUCH)] == [(1, 1)]
    database.close()


class Uncleared(list[Written]):
    """What stays, as in a build that forgets to forget it."""

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
        group._written = Uncleared()

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
    kept = [tuple(row) for piece in tail._kept for row in json.loads(piece.raw)]
    assert (kept == stored[1:]) is not broken
    assert any("a.example" in body for _, body, _ in kept) is broken
    database.close()


def event(host: str) -> PolicyEvent:
    return PolicyEvent(1000.0, "edit", "cli:me", f"allow {host}", "", "v")
