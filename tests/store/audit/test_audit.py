from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.rule import HostPattern, PatternKind, Rule
from cloned_proxy.store.audit import audit_log, audit_retention
from cloned_proxy.store.audit.audit_log import AuditLog, prune_entries
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import AuditSettings
from cloned_proxy.telemetry.events import AuditUnavailableError, DecisionEvent, FlowEnd, Kind, PolicyEvent

EVENT = DecisionEvent(
    id="d1", at=1000.0, kind=Kind.TUNNEL, verdict="allow", reason="allowed", tool="demo@v1", run=None,
    host="a.test", port=443, method="CONNECT", path="", rule="r-1", policy="abc", hint="",
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def writer(path: Path) -> Iterator[AuditWriter]:
    writer = AuditWriter(path, queue=100, retention_days=100_000)
    yield writer
    writer.close()


def _wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def _fill(path: Path, count: int) -> None:
    with AuditLog(path) as log:
        for number in range(count):
            log.append(replace(EVENT, id=f"d{number}", at=1000.0 + number))


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
        _wait(lambda: len(list(log.entries())) == 50)
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
    _fill(path, 5)
    with sqlite3.connect(path, autocommit=True) as database:
        database.execute(statement)
    database.close()
    with AuditLog(path) as log:
        report = log.verify()
    assert not report.holds
    assert report.broken == broken
    assert report.problem


def test_retention_removes_the_oldest_and_the_rest_still_verifies(path: Path) -> None:
    _fill(path, 10)
    with AuditLog(path) as log:
        assert prune_entries(log._database, before=1004.0) == 4
        assert [entry.seq for entry in log.entries()] == [5, 6, 7, 8, 9, 10]
        assert (log.verify().holds, log.verify().entries) == (True, 6)
        assert prune_entries(log._database, before=99_999.0) == 6
        log.append(EVENT)
        assert (log.verify().holds, log.verify().entries) == (True, 1)


def test_the_writer_prunes_what_is_older_than_its_setting(path: Path) -> None:
    _fill(path, 3)
    writer = AuditWriter(path, retention_days=1, clock=lambda: 1001.5 + 86_400)
    with AuditLog(path) as log:
        _wait(lambda: [entry.seq for entry in log.entries()] == [3])
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
        _wait(lambda: [entry.body["id"] for entry in log.entries(last=1)] == ["d5999"], seconds=60)
        _wait(lambda: sizes[-1] <= 1 << 20 and log.verify().entries < 6000, seconds=60)
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


async def test_who_fills_the_queue_waits_for_the_disk_and_nobody_else_does(path: Path) -> None:
    writer = AuditWriter(path, queue=20, retention_days=100_000)
    with sqlite3.connect(path, autocommit=True) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        for _ in range(9):
            writer.record(EVENT, owner="loud@v1")
        assert not writer.behind("loud@v1")
        for _ in range(100):
            writer.record(EVENT, owner="loud@v1")  # whoever does not ask is not refused either
        assert writer.behind("loud@v1")
        writer.record(EVENT, owner="quiet@v1")
        assert not writer.behind("quiet@v1")
        assert not writer.behind(None)
        caught_up = asyncio.create_task(writer.caught_up())
        await asyncio.sleep(0)
        assert not caught_up.done()
        blocker.execute("ROLLBACK")
    blocker.close()
    await caught_up
    assert not writer.behind("loud@v1")
    with AuditLog(path) as log:
        assert log.verify().entries == 110
    writer.close()


async def test_a_broken_database_refuses_until_it_works_again(writer: AuditWriter, path: Path) -> None:
    await writer.commit(EVENT)
    moved = path.with_name("moved")
    path.rename(moved)  # noqa: ASYNC240  as an operator would, between two events
    with pytest.raises(AuditUnavailableError):
        await writer.commit(EVENT)
    assert not writer.healthy
    with pytest.raises(AuditUnavailableError, match="cannot be written"):
        writer.record(EVENT)
    moved.rename(path)
    await asyncio.to_thread(_wait, lambda: writer.healthy)
    await writer.commit(EVENT)
    with AuditLog(path) as log:
        assert len(list(log.entries())) == 2  # the refused one is not there


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("broken", [False, True])
def test_a_denial_that_was_answered_before_the_file_was_missed_is_on_record(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, restored: bool, broken: bool
) -> None:
    """Denials do not wait for the disk: one may have been answered as the file was moved, or put back from a backup."""
    if broken:
        monkeypatch.setattr(AuditWriter, "_write_elsewhere", lambda _self, _items: None)
    writer = AuditWriter(path)
    asyncio.run(writer.commit(EVENT))
    backup = path.with_name("backup")
    with sqlite3.connect(path) as database, sqlite3.connect(backup) as copy:
        database.backup(copy)
    copy.close()
    database.close()
    for each in path.parent.glob("state.db*"):
        each.rename(each.with_name(f"moved-{each.name}"))
    if restored:
        backup.rename(path)
        path.chmod(0o600)
    writer.denied(replace(EVENT, id="d2", verdict="deny", reason="host_not_allowed", host="late.test", rule=""))
    _wait(lambda: not writer.healthy, 60)
    writer.close()
    with AuditLog(path) as log:
        hosts = [entry.body["host"] for entry in log.entries()]
        assert log.verify().holds
    assert hosts == ["a.test"] * restored + ["late.test"] * (not broken)


def test_a_closed_or_dead_writer_refuses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = AuditWriter(path)
    writer.record(EVENT)
    writer.close()
    with pytest.raises(AuditUnavailableError):
        writer.record(EVENT)
    with AuditLog(path) as log:
        assert log.verify().entries == 1


_FULL_DISK = """
import asyncio, resource, signal, sys, time
from pathlib import Path
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import AuditUnavailableError, PolicyEvent
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main(path):
    writer = AuditWriter(path)
    event = PolicyEvent(time.time(), "edit", "cli", "x" * 5000, "", "")
    await writer.commit(event)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    written = 1
    try:
        for _ in range(200):
            await writer.commit(event)
            written += 1
    except AuditUnavailableError:
        assert not writer.healthy
    else:
        sys.exit("the disk was never full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    while not writer.healthy:
        await asyncio.sleep(0.05)
    await writer.commit(event)
    writer.close()
    with AuditLog(path) as log:
        report = log.verify()
    assert report.holds and report.entries == written + 1, (report, written)
    print("ok")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_refuses_and_is_survived(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.endswith("ok\n"), done.stderr


_WRITE_FOREVER = """
import asyncio, sys, time
from pathlib import Path
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import PolicyEvent

async def main(path):
    writer = AuditWriter(path)
    for number in range(1_000_000):
        event = PolicyEvent(time.time(), "edit", "cli", str(number), "", "")
        if number % 10:
            writer.record(event)
        else:
            await writer.commit(event)
            print(number + 1, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_kill_9_while_two_processes_write_loses_nothing_committed(path: Path) -> None:
    with AuditLog(path):
        pass
    children = [
        subprocess.Popen([sys.executable, "-c", _WRITE_FOREVER, path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    committed = 0
    for child in children:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(8)]
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0].splitlines()
        committed += int(rest[-1] if rest else lines[-1])
    with AuditLog(path) as log:
        report = log.verify()
        assert report.holds, report.problem
        assert report.entries >= committed
        log.append(EVENT)
        assert log.verify().holds


def _truncate(path: Path) -> None:
    _fill(path, 50)
    os.truncate(path, 5000)


def _other_version(path: Path) -> None:
    _fill(path, 1)
    with sqlite3.connect(path, autocommit=True) as database:
        database.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    database.close()


def _foreign(path: Path) -> None:
    with sqlite3.connect(path, autocommit=True) as database:
        database.execute("CREATE TABLE cookies (x)")
    database.close()
    path.chmod(0o600)


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)
    path.chmod(0o600)


def _open_to_others(path: Path) -> None:
    _fill(path, 1)
    path.chmod(0o644)


UNUSABLE = [
    pytest.param(_garbage, "mv ", id="garbage"),
    pytest.param(_truncate, "", id="truncated"),
    pytest.param(_foreign, "not a state database", id="foreign database"),
    pytest.param(_other_version, "schema version 999", id="newer schema"),
    pytest.param(_open_to_others, "chmod 600", id="readable by others"),
    pytest.param(lambda path: path.mkdir(), "not a regular file", id="directory"),
    pytest.param(lambda path: path.symlink_to("elsewhere"), "not a regular file", id="link"),
]


@pytest.mark.parametrize(("make", "message"), UNUSABLE)
def test_an_unusable_database_is_one_clear_line_and_stays_as_it_is(
    path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as caught:
        State(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_a_second_connection_that_closes_leaves_the_first_ones_locks(path: Path) -> None:
    """Closing any descriptor of the file drops a process's fcntl locks, and with them SQLite's."""
    with AuditLog(path) as first:
        first._database.execute("BEGIN IMMEDIATE")
        with AuditLog(path):
            pass
        other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run(
            [sys.executable, "-c", other, path], capture_output=True, text=True, timeout=20, check=False
        )
        assert "locked" in done.stderr
        first._database.execute("ROLLBACK")


def test_the_database_is_private(path: Path, writer: AuditWriter) -> None:
    writer.record(EVENT)
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


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
    _fill(path, 10)
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
    _fill(path, 10)
    writer = AuditWriter(path, retention_days=1, clock=lambda: 1007.5 + 86_400)
    with AuditLog(path) as log:
        _wait(lambda: log.verify().entries == 2)
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
