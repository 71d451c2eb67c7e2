"""The audit log when the disk, the database or another process fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import AuditUnavailableError
from tests.store.audit.writing import EVENT, fill
from tests.waiting import eventually


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
    await asyncio.to_thread(eventually, lambda: writer.healthy)
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
    eventually(lambda: not writer.healthy, 60)
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
    fill(path, 50)
    os.truncate(path, 5000)


def _other_version(path: Path) -> None:
    fill(path, 1)
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
    fill(path, 1)
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
