"""The roll-up says what the entries say, within bounds, for files of every age."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.store.audit.audit_log import AuditLog, append_events
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.audit.tally import HOUR, OTHER, BlockedCall, RecordedCall, Tally
from cloned_proxy.store.audit.tally_writer import (
    CALLS_PER_DESTINATION,
    NEW_CALLS_PER_HOUR,
    TallyWriter,
    backfill,
    prune_tally,
)
from cloned_proxy.telemetry.events import DecisionEvent, Event, Kind, PolicyEvent, new_decision_id

NOW = 1_780_000_000.0


def _event(
    host: str = "api.example.com",
    *,
    at: float = NOW,
    tool: str | None = "demo@v1",
    port: int = 443,
    method: str = "CONNECT",
    path: str = "",
    reason: Reason = Reason.ALLOWED,
) -> DecisionEvent:
    verdict = "allow" if reason is Reason.ALLOWED else "deny"
    kind = Kind.TUNNEL if method == "CONNECT" else Kind.HTTP
    return DecisionEvent(
        new_decision_id(), at, kind, verdict, reason, tool, "run", host, port, method, path, "r-1", "version", ""
    )


def _write(path: Path, *events: Event) -> None:
    writer = AuditWriter(path, clock=lambda: NOW)
    for event in events:
        writer.record(event)
    writer.close()


def _calls(path: Path, since: float = 0, **conditions: str | None) -> list[RecordedCall]:
    with Tally(path) as tally:
        return tally.calls(since=since, **conditions)  # type: ignore[arg-type]


MIXED = [
    _event(),
    _event(at=NOW + 1),
    _event(at=NOW + HOUR),
    _event("b.example.com", reason=Reason.HOST_NOT_ALLOWED),
    _event("b.example.com", tool=None, reason=Reason.HOST_NOT_ALLOWED),
    _event("deep.b.example.com", reason=Reason.EXPLICIT_DENY),
    _event("example.com", port=80, method="GET", path="/v1/a"),
    _event("example.com", port=80, method="GET", path="/v1/b"),
    _event("192.0.2.1", reason=Reason.IP_LITERAL),
]


def test_the_roll_up_says_what_the_entries_say(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _write(path, *MIXED, PolicyEvent(NOW, "reload", "file", "", "", ""))
    told: Counter[tuple[object, ...]] = Counter()
    with AuditLog(path) as log:
        for entry in log.entries():
            told[
                tuple(entry.body[name] for name in ("tool", "host", "port", "method", "path", "verdict", "reason"))
            ] += 1
    calls = _calls(path)
    assert {(c.tool, c.host, c.port, c.method, c.path, c.verdict, c.reason): c.count for c in calls} == told
    assert calls[0].count == 3, "the most frequent first"
    assert (calls[0].first, calls[0].last) == (NOW, NOW + HOUR)


@pytest.mark.parametrize(
    ("conditions", "hosts"),
    [
        ({"host": "b.example.com"}, {"b.example.com"}),
        ({"host": "*.example.com"}, {"api.example.com", "b.example.com"}),
        ({"host": "**.example.com"}, {"api.example.com", "b.example.com", "deep.b.example.com"}),
        ({"host": "192.0.2.1"}, {"192.0.2.1"}),
        ({"tool": None}, {"b.example.com"}),
        ({"verdict": "allow"}, {"api.example.com", "example.com"}),
        ({"tool": "demo@v1", "verdict": "deny", "host": "*.example.com"}, {"b.example.com"}),
    ],
)
def test_calls_are_chosen_as_the_rules_choose_them(
    tmp_path: Path, conditions: dict[str, str | None], hosts: set[str]
) -> None:
    _write(tmp_path / "state.db", *MIXED)
    assert {call.host for call in _calls(tmp_path / "state.db", 0, **conditions)} == hosts


def test_a_span_of_time_is_counted_to_the_hour(tmp_path: Path) -> None:
    _write(tmp_path / "state.db", *(_event(at=NOW + hour * HOUR) for hour in range(10)))
    with Tally(tmp_path / "state.db") as tally:
        assert tally.count(since=0) == 10
        assert tally.count(since=NOW + 7 * HOUR) == 3
        assert tally.calls(since=NOW + 2 * HOUR, until=NOW + 4 * HOUR)[0].count == 3
        assert tally.count(since=NOW + 9 * HOUR + 1) == 0, "the last call of that hour was before"


def test_blocked_calls_come_by_tool_and_host_on_whatever_port(tmp_path: Path) -> None:
    denied = Reason.HOST_NOT_ALLOWED
    _write(
        tmp_path / "state.db",
        _event("a.test", reason=denied, at=NOW),
        _event("a.test", reason=denied, at=NOW + 5, port=80, method="GET", path="/1"),
        _event("a.test", reason=denied, at=NOW + 6, port=80, method="POST", path="/1"),
        _event("a.test", reason=Reason.EXPLICIT_DENY, at=NOW + 7, port=80, method="GET", path="/2"),
        _event("a.test", port=80, method="GET", path="/3"),
    )
    with Tally(tmp_path / "state.db") as tally:
        groups = tally.blocked(since=0)
        assert tally.blocked(since=0, limit=1) == groups[:1]
        assert tally.blocked(since=0, tool="other@v1") == []
    (group,) = groups
    assert (group.tool, group.host, group.count, group.first, group.last) == ("demo@v1", "a.test", 4, NOW, NOW + 7)
    assert set(group.calls) == {
        BlockedCall(443, "host_not_allowed", "CONNECT", "", 1),
        BlockedCall(80, "host_not_allowed", "GET", "/1", 1),
        BlockedCall(80, "host_not_allowed", "POST", "/1", 1),
        BlockedCall(80, "explicit_deny", "GET", "/2", 1),
    }


def _rows(path: Path) -> int:
    database = open_database(path)
    (rows,) = database.execute("SELECT count(*) FROM tally_calls").fetchone()
    database.close()
    return int(rows)


def test_a_flood_of_hosts_ends_in_one_row_and_known_calls_go_on(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    flood = [_event(f"h{number}.test") for number in range(NEW_CALLS_PER_HOUR + 500)]
    _write(path, _event("known.test"), *flood)
    _write(path, _event("known.test"), _event("late.test"), _event("other-tool.test", tool="b@v1"))  # a new process
    assert _rows(path) == NEW_CALLS_PER_HOUR + 2
    counts = {(call.host, call.port): call.count for call in _calls(path)}
    assert counts[OTHER, 0] == 502
    assert counts["known.test", 443] == 2
    assert counts["other-tool.test", 443] == 1
    assert sum(counts.values()) == len(flood) + 4, "every decision is counted somewhere"
    _write(path, _event("late.test", at=NOW + HOUR))
    assert ("late.test", 443) in {(call.host, call.port) for call in _calls(path)}, "the next hour has room again"


def test_a_flood_of_paths_does_not_use_up_the_room_of_other_hosts(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    paths = [_event(port=80, method="GET", path=f"/{number}") for number in range(CALLS_PER_DESTINATION + 50)]
    _write(path, *paths, _event("b.test"))
    calls = _calls(path)
    assert len(calls) == CALLS_PER_DESTINATION + 2
    assert calls[0].count == 50
    assert (calls[0].host, calls[0].path, calls[0].method) == ("api.example.com", OTHER, OTHER)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(_event("\x00\udcff.test", reason=Reason.MALFORMED_REQUEST), id="host"),
        pytest.param(_event(method="G\u2028", path="/"), id="method"),
        pytest.param(_event(method="X" * 60, path="/"), id="long method"),
        pytest.param(_event(method="GET", path="/\udc80"), id="path"),
        pytest.param(_event(method="GET", path="/" + "x" * 1000), id="long path"),
    ],
)
def test_what_no_rule_could_name_is_counted_as_other(tmp_path: Path, event: DecisionEvent) -> None:
    _write(tmp_path / "state.db", event)
    (call,) = _calls(tmp_path / "state.db")
    assert OTHER in (call.host, call.method, call.path)


def _as_an_older_program(path: Path, count: int) -> None:
    """A file of schema version 1 without a roll-up, with entries in it; one was written by somebody else."""
    database = open_database(path)
    for table in ("tally", "tally_calls"):
        database.execute(f"DROP TABLE {table}")
    database.execute("DELETE FROM meta WHERE key LIKE 'tally%'")
    database.execute("BEGIN IMMEDIATE")
    append_events(database, [_event(f"h{number % 7}.test", at=NOW + number) for number in range(count)])
    database.execute("COMMIT")
    for number, body in enumerate(('{"type": "decision"}', "[]", json.dumps({"type": "decision", "host": 7}))):
        database.execute("INSERT INTO entries (seq, body, hash) VALUES (?, ?, '')", (count + 1 + number, body))
    database.execute("UPDATE meta SET value = ? WHERE key = 'head_seq'", (str(count + 3),))
    database.close()


def test_an_older_file_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _as_an_older_program(path, 1700)
    for _ in range(2):  # the second start finds it done
        writer = AuditWriter(path, clock=lambda: NOW)
        writer.record(_event("new.test"))
        asyncio.run(writer.commit(_event("new.test")))
        for _ in range(200):
            with Tally(path) as tally:
                if tally.count(since=0) >= 1702:
                    break
            asyncio.run(asyncio.sleep(0.05))
        writer.close()
    counts = {call.host: call.count for call in _calls(path)}
    assert counts.pop("new.test") == 4
    assert sum(counts.values()) == 1700


def test_two_processes_share_the_counting_of_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _as_an_older_program(path, 1200)
    first, second = open_database(path), open_database(path)
    writers = TallyWriter(), TallyWriter()
    while backfill(first, writers[0]) | backfill(second, writers[1]):
        pass
    first.close()
    second.close()
    assert sum(call.count for call in _calls(path)) == 1200


def test_old_hours_go_and_calls_without_any_hour_go_with_them(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _write(path, _event("old.test", at=NOW), _event("both.test", at=NOW), _event("both.test", at=NOW + 5 * HOUR))
    database = open_database(path)
    prune_tally(database, before=NOW + 3 * HOUR)
    database.close()
    assert [(call.host, call.count) for call in _calls(path)] == [("both.test", 1)]
    assert _rows(path) == 1


def test_a_group_that_failed_is_counted_once_when_it_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    writer = AuditWriter(path, clock=lambda: NOW)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE UPDATE ON rule_hits BEGIN SELECT raise(ABORT, 'no space'); END")
    asyncio.run(writer.commit(_event("first.test")))
    writer.record(_event("second.test"))  # its rule has hits now, so that the trigger stops the group
    for _ in range(100):
        if writer.failure is not None:
            break
        asyncio.run(asyncio.sleep(0.05))
    assert writer.failure is not None
    other.execute("DROP TRIGGER full")
    other.close()
    writer.close()
    with AuditLog(path) as log:
        assert [entry.body["host"] for entry in log.entries()] == ["first.test", "second.test"]
    assert {call.host: call.count for call in _calls(path)} == {"first.test": 1, "second.test": 1}
