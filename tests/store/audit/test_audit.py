from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.rule import HostPattern, PatternKind, Rule
from cloned_proxy.store.audit import audit_log, audit_retention
from cloned_proxy.store.audit.audit_log import AuditLog, prune_entries
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.settings.config import AuditSettings
from cloned_proxy.telemetry.events import FlowEnd, PolicyEvent
from tests.store.audit.writing import EVENT, fill
from tests.waiting import eventually


async def test_a_committed_event_is_on_disk_and_the_chain_holds(writer: AuditWriter, path: Path) -> None:
    await writer.commit(EVENT)
    with AuditLog(path) as log:
        (entry,) = log.entries()
        assert entry.body["host"] == "a.test"
        assert (log.verify().holds, log.verify().entries) == (True, 1)


@pytest.mark.alone
def test_recorded_events_keep_their_order_and_are_on_disk_soon(writer: AuditWriter, path: Path) -> None:
    started = time.monotonic()
    for number in range(50):
        writer.record(replace(EVENT, id=str(number), at=1000.0 - number))  # a clock that runs backwards
    with AuditLog(path) as log:
        eventually(lambda: len(list(log.entries())) == 50)
        assert time.monotonic() - started < 2  # 50 ms on a machine that does nothing else
        assert [entry.body["id"] for entry in log.entries()] == [str(number) for number in range(50)]


TAMPERING = [
    pytest.param("UPDATE entries SET body = replace(body, 'a.test', 'b.test') WHERE seq = 3", 3, id="changed body"),
    pytest.param("UPDATE entries SET hash = replace(hash, '0', '1') WHERE seq = 3", 3, id="changed hash"),
    pytest.param("DELETE FROM entries WHERE seq = 3", 3, id="deleted in the middle"),
    pytest.param("DELETE FROM entries WHERE seq = 1", 1, id="deleted first"),
    pytest.param("DELETE FROM entries WHERE seq > 3", 4, id="cut tail"),
    pytest.param("DELETE FROM entries", 1, id="all deleted"),
    pytest.param(
        "INSERT INTO entries (seq, body, hash) SELECT 6, body, hash FROM entries WHERE seq = 5", 6, id="added"
    ),
    pytest.param("UPDATE entries SET body = '{}' WHERE seq = 2", 2, id="emptied body"),
    pytest.param("DELETE FROM meta WHERE key = 'head_seq'", 1, id="head removed"),
]


@pytest.mark.parametrize(("statement", "broken"), TAMPERING)
def test_tampering_is_found_and_the_first_broken_entry_named(path: Path, statement: str, broken: int) -> None:
    fill(path, 5)
    with sqlite3.connect(path, autocommit=True) as database:
        database.execute(statement)
    database.close()
    with AuditLog(path) as log:
        report = log.verify()
    assert not report.holds
    assert report.broken == broken
    assert report.problem


def test_retention_removes_the_oldest_and_the_rest_still_verifies(path: Path) -> None:
    fill(path, 10)
    with AuditLog(path) as log:
        assert prune_entries(log._database, before=1004.0) == 4
        assert [entry.seq for entry in log.entries()] == [5, 6, 7, 8, 9, 10]
        assert (log.verify().holds, log.verify().entries) == (True, 6)
        assert prune_entries(log._database, before=99_999.0) == 6
        log.append(EVENT)
        assert (log.verify().holds, log.verify().entries) == (True, 1)


def test_the_writer_prunes_what_is_older_than_its_setting(path: Path) -> None:
    fill(path, 3)
    writer = AuditWriter(path, retention_days=1, clock=lambda: 1001.5 + 86_400)
    with AuditLog(path) as log:
        eventually(lambda: [entry.seq for entry in log.entries()] == [3])
        assert log.verify().holds
    writer.close()


def test_the_log_stays_within_its_size_whatever_its_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "_PRUNE_GROUP", 200)
    monkeypatch.setattr(audit_retention, "_LOOK_AFTER", 100)
    sizes: list[int] = []
    writer = AuditWriter(path, retention_days=100_000, max_mib=1, on_size=sizes.append)
    for number in range(6000):  # some 3 MiB
        writer.record(replace(EVENT, id=f"d{number}", path="/" + "x" * 300))
    with AuditLog(path) as log:
        # The writer looks at the size while entries still arrive: the last entry has to be in before its word counts.
        eventually(lambda: [entry.body["id"] for entry in log.entries(last=1)] == ["d5999"], seconds=60)
        eventually(lambda: sizes[-1] <= 1 << 20 and log.verify().entries < 6000, seconds=60)
        report = log.verify()
    writer.close()
    assert report.holds
    assert 0 < report.entries < 6000
    assert max(sizes) > 1 << 20


def test_queries_filter_and_follow(path: Path) -> None:
    with AuditLog(path) as log:
        log.append(replace(EVENT, at=1.0))
        log.append(replace(EVENT, at=2.0, verdict="deny", tool="other@v1", rule=""))
        log.append(FlowEnd("d1", 3.0, "demo@v1", 1, 2, 0.5, "closed"))
        log.append(PolicyEvent(4.0, "edit", "cli:me", "allow a.test", "because", "abc"))
        log.append(replace(EVENT, at=5.0))

        def seqs(**filters: object) -> list[int]:
            return [entry.seq for entry in log.entries(**filters)]  # type: ignore[arg-type]  # rows of a table

        assert seqs() == [1, 2, 5]
        assert seqs(denied=True) == [2]
        assert seqs(tool="demo@v1") == [1, 5]
        assert seqs(since=2.0) == [2, 5]
        assert seqs(after=2) == [5]
        assert seqs(last=1) == [5]
        assert seqs(types=("policy", "flow_end")) == [3, 4]
        hits = log.rule_hits()["r-1"]
        assert (hits.hits, hits.last) == (2, 5.0)


def _rule(rule_id: str, uses: int | None) -> Rule:
    return Rule(rule_id, "global", False, HostPattern(PatternKind.EXACT, "a.test"), max_uses=uses)


async def test_lease_uses_survive_a_restart(path: Path) -> None:
    rule = _rule("r-1", 2)
    state = State(path, AuditSettings(retention_days=36_500))
    state.leases.keep([rule])
    assert state.leases.take(rule)
    await state.audit.commit(replace(EVENT, spends_use=True))
    state.close()

    state = State(path, AuditSettings(retention_days=36_500))
    state.leases.keep([rule])
    assert (state.leases.used("r-1"), list(state.leases.spent)) == (1, [])
    assert state.leases.take(rule)
    assert list(state.leases.spent) == ["r-1"]
    assert not state.leases.take(rule)
    state.close()


def test_a_renewal_gives_new_uses_and_a_rule_that_left_is_forgotten(path: Path) -> None:
    state = State(path, AuditSettings(retention_days=36_500))
    rule = _rule("r-1", 1)
    state.leases.keep([rule])
    assert state.leases.take(rule)
    state.audit.record(replace(EVENT, spends_use=True))
    assert not state.leases.take(rule)
    state.leases.keep([_rule("r-1", 3)])
    assert list(state.leases.spent) == []
    assert state.leases.take(_rule("r-1", 3))
    state.leases.keep([])
    state.close()
    with AuditLog(path) as log:
        assert log.lease_uses() == {}


@pytest.mark.parametrize("jump", ["while it runs", "before it starts"])
def test_a_clock_that_jumps_ahead_does_not_prune_the_log(
    path: Path, jump: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_retention, "PRUNE_SECONDS", 0.01)
    fill(path, 10)
    wall = [1010.0 if jump == "while it runs" else 4_000_000_000.0]
    writer = AuditWriter(path, retention_days=90, clock=lambda: wall[0])
    time.sleep(0.05)
    wall[0] = 4_000_000_000.0
    for number in range(3):  # the writer looks again behind each group
        writer.record(replace(EVENT, id=f"later {number}", at=wall[0]))
        time.sleep(0.05)
    writer.close()
    with AuditLog(path) as log:
        assert log.verify().entries == 13


def test_a_long_pruning_goes_on_in_small_groups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "_PRUNE_GROUP", 2)
    fill(path, 10)
    writer = AuditWriter(path, retention_days=1, clock=lambda: 1007.5 + 86_400)
    with AuditLog(path) as log:
        eventually(lambda: log.verify().entries == 2)
        assert log.verify().holds
    writer.close()


def test_a_decision_is_found_by_its_id_and_by_nothing_else(tmp_path: Path) -> None:
    events = [replace(EVENT, id="aa1"), replace(EVENT, id="aa2")]
    with AuditLog(tmp_path / "state.db") as log:
        for event in events:
            log.append(event)
        found = log.decision(events[0].id)
        assert found is not None
        assert (found.seq, found.body["id"]) == (1, events[0].id)
        for other in ("", events[0].id[:-1], f'{events[0].id}","kind":"', "%"):
            assert log.decision(other) is None


def test_since_is_exact_though_a_clock_was_set_back(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "state.db") as log:
        for at in (100.0, 200.0, 150.0, 90.0, 300.0):
            log.append(PolicyEvent(at, "reload", "file", "", "", ""))
        assert [entry.body["at"] for entry in log.entries(types=("policy",), since=150)] == [200.0, 150.0, 300.0]
        assert list(log.entries(types=("policy",), since=301)) == []
