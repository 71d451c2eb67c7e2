"""The edit service: an edit and its record stand or fall together, and every version can be brought back."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.audit import policy_history
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.audit.policy_history import PolicySnapshot, PolicyVersion, remember
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.files.policy_bytes import version_of
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry
from cloned_proxy.store.policyfile.tests_of_policy import ForbiddenByTestsError
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import PolicyEvent

FORK = multiprocessing.get_context("fork")
NOW = 1_000_000_000.0
BY_HAND = "# by hand\nversion: 1\nglobal:\n  allow: [old.test]\n"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / ".cloned")
    workspace.create()
    workspace.policy_file.write_text(BY_HAND)
    return workspace


def _service(place: Workspace) -> EditService:
    return EditService(place, place.policy_file, clock=lambda: NOW)


def _allow(service: EditService, host: str, **options: str | bool) -> EditResult:
    return service.add([Addition((Entry(host),))], actor="cli:me", why="ticket 7", **options)  # type: ignore[arg-type]


def _edits(place: Workspace) -> list[str]:
    with AuditLog(place.state_db) as log:
        return [entry.body["summary"] for entry in log.entries(types=("policy",))]


def _version(place: Workspace) -> str:
    return version_of(place.policy_file.read_bytes())


def test_an_edit_is_in_the_history_with_who_and_why_and_so_is_what_was_there_before(place: Workspace) -> None:
    before = _version(place)
    result = _allow(_service(place), "new.test")
    assert _service(place).history() == [
        PolicyVersion(result.version, NOW, "cli:me", "ticket 7", "allow new.test"),
        PolicyVersion(before, NOW, "file", "", "found in the file"),
    ]
    assert _service(place).text_of(before) == BY_HAND
    assert "+" in _service(place).diff(result.version)
    assert "old.test" in _service(place).diff(before), "the oldest version is compared with nothing"


def test_a_version_is_restored_to_the_byte(place: Workspace) -> None:
    before = _version(place)
    _allow(_service(place), "new.test")
    _service(place).restore(before, actor="cli:me", why="undo")
    assert place.policy_file.read_text() == BY_HAND
    assert _service(place).history()[0].version == before
    assert _edits(place) == ["allow new.test", f"restore version {before}"]


def test_a_broken_file_can_be_restored(place: Workspace) -> None:
    good = _allow(_service(place), "new.test").version
    place.policy_file.write_bytes(b"\xff{")
    _service(place).restore(good, actor="cli:me", why="")
    assert _version(place) == good


def test_a_version_that_fails_its_tests_now_is_not_restored(place: Workspace) -> None:
    lease = "{host: a.test, expires: 2001-09-09T01:46:41Z}"  # one second later
    place.policy_file.write_text(
        f"version: 1\nglobal: {{allow: [{lease}]}}\nanonymous: global\ntests: [{{allow: ['https://a.test/']}}]\n"
    )
    old = _version(place)
    now = _allow(_service(place), "new.test").version
    later = EditService(place, place.policy_file, clock=lambda: NOW + 60)
    with pytest.raises(PolicyError):
        later.restore(old, actor="cli:me", why="")
    assert _version(place) == now


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda s, v: _allow(s, "x.test", expected_version=v), id="add"),
        pytest.param(
            lambda s, v: s.remove(["old.test"], tool=None, actor="a", why="", expected_version=v), id="remove"
        ),
        pytest.param(lambda s, v: s.remove_rule("r-0", actor="a", why="", expected_version=v), id="remove_rule"),
        pytest.param(
            lambda s, v: s.restore(s.history()[-1].version, actor="a", why="", expected_version=v), id="restore"
        ),
    ],
)
def test_a_file_that_changed_since_it_was_seen_is_a_conflict(
    place: Workspace, edit: Callable[[EditService, str], object]
) -> None:
    _allow(_service(place), "new.test")
    seen = _version(place)
    place.policy_file.write_text(BY_HAND + "# changed between view and edit\n")
    changed, edits = place.policy_file.read_bytes(), _edits(place)
    with pytest.raises(ConflictError, match="look at what changed"):
        edit(_service(place), seen)
    assert place.policy_file.read_bytes() == changed
    assert _edits(place) == edits
    edit(_service(place), _version(place))


def test_one_rule_goes_by_its_id(place: Workspace) -> None:
    wide, narrow = Entry("a.test"), Entry("a.test", paths=("/v1/**",))
    ids = _service(place).add([Addition((wide, narrow), "demo@v1")], actor="a", why="").rule_ids
    result = _service(place).remove_rule(ids[0], actor="a", why="")
    assert result.rule_ids == ids[:1]
    assert "/v1/**" in place.policy_file.read_text()
    assert "a.test" in _edits(place)[-1]
    again = _service(place).remove_rule(ids[0], actor="a", why="")
    assert (again.changed, again.missing) == (False, ids[:1])


def test_a_dry_run_leaves_nothing_behind(place: Workspace) -> None:
    before = sorted(place.root.iterdir())
    assert "new.test" in _allow(_service(place), "new.test", dry_run=True).diff
    assert sorted(place.root.iterdir()) == before


def test_without_a_log_that_can_be_written_there_is_no_edit(place: Workspace) -> None:
    _allow(_service(place), "new.test")
    before = place.policy_file.read_bytes()
    database = sqlite3.connect(place.state_db, isolation_level=None)
    database.execute("CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT raise(ABORT, 'no space'); END")
    database.close()
    with pytest.raises(StoreError, match="no space"):
        _allow(_service(place), "more.test")
    assert place.policy_file.read_bytes() == before


def _edit_without_room(place: Workspace, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        _allow(_service(place), "more.test")
    except StoreError:
        os._exit(0)
    os._exit(1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_commit_that_fails_puts_the_old_file_back(place: Workspace) -> None:
    _allow(_service(place), "new.test")
    before = place.policy_file.read_bytes()
    with AuditLog(place.state_db) as log:  # holds the write-ahead log open, so that the child must make it longer
        while (size := Path(f"{place.state_db}-wal").stat().st_size) < 100_000:
            log.append(PolicyEvent(NOW, "reload", "file", "x" * 1000, "", ""))
        child = FORK.Process(target=_edit_without_room, args=(place, size))
        child.start()
        child.join()
        assert child.exitcode == 0, "the edit did not fail"
        assert place.policy_file.read_bytes() == before
        assert log.verify().holds
        assert _service(place).history()[0].summary == "allow new.test"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_file_that_cannot_be_written_leaves_no_record(place: Workspace) -> None:
    _allow(_service(place), "new.test")
    with place.policy_file.open("a") as file:
        file.write("# long\n" * 100_000)
    before = place.policy_file.read_bytes()
    child = FORK.Process(target=_edit_without_room, args=(place, 500_000))
    child.start()
    child.join()
    assert child.exitcode == 0, "the edit did not fail"
    assert place.policy_file.read_bytes() == before
    assert _edits(place) == ["allow new.test"]
    assert [file.name for file in place.root.glob("*.tmp")] == []


def _snapshot(number: int, raw: bytes = b"") -> PolicySnapshot:
    raw = raw or f"version: 1 # {number}".encode()
    return PolicySnapshot(PolicyVersion(version_of(raw), NOW + number, "file", "", str(number)), "policy.yaml", raw, ())


def test_the_history_is_bounded_by_number_and_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(tmp_path / "state.db")
    for number in range(policy_history.MAX_VERSIONS + 20):
        remember(database, _snapshot(number))
    kept = policy_history.versions(database, "policy.yaml", 10_000)
    assert [each.summary for each in kept] == [str(n) for n in range(policy_history.MAX_VERSIONS + 19, 19, -1)]
    (texts,) = database.execute("SELECT count(*) FROM policy_texts").fetchone()
    assert texts == policy_history.MAX_VERSIONS

    monkeypatch.setattr(policy_history, "MAX_TEXT_BYTES", 10_000)
    remember(database, _snapshot(1000, os.urandom(9_990)))
    assert len(policy_history.versions(database, "policy.yaml", 10_000)) < 10
    remember(database, _snapshot(1001, os.urandom(20_000)))
    assert [each.summary for each in policy_history.versions(database, "policy.yaml", 10)] == ["1001"]
    database.close()


def test_the_same_text_is_kept_once_and_the_same_version_twice_running_is_one(tmp_path: Path) -> None:
    database = open_database(tmp_path / "state.db")
    for number in (1, 1, 2, 1, 2):
        remember(database, _snapshot(number))
    assert [each.summary for each in policy_history.versions(database, "policy.yaml", 10)] == ["2", "1", "2", "1"]
    assert database.execute("SELECT count(*) FROM policy_texts").fetchone() == (2,)
    database.close()


@pytest.mark.parametrize("damage", ["UPDATE policy_texts SET text = x'00'", "DELETE FROM policy_texts"])
def test_a_text_that_was_changed_is_not_restored(place: Workspace, damage: str) -> None:
    before = _version(place)
    _allow(_service(place), "new.test")
    database = open_database(place.state_db)
    database.execute(damage)
    database.close()
    now = place.policy_file.read_bytes()
    with pytest.raises(StoreError, match="history"):
        _service(place).restore(before, actor="a", why="")
    assert place.policy_file.read_bytes() == now


def test_a_database_of_an_older_program_gains_the_tables(place: Workspace) -> None:
    database = open_database(place.state_db)
    for table in ("policy_versions", "policy_texts", "rule_seen"):
        database.execute(f"DROP TABLE {table}")
    database.close()
    _allow(_service(place), "new.test")
    assert len(_service(place).history()) == 2


def test_what_is_no_longer_tested_is_on_record(place: Workspace) -> None:
    place.policy_file.write_text(f"{BY_HAND}anonymous: global\ntests: [{{deny: ['https://new.test/']}}]\n")
    with pytest.raises(ForbiddenByTestsError):
        _allow(_service(place), "new.test")
    _allow(_service(place), "new.test", update_tests=True)
    told = "allow new.test; no longer tested: tests[0].deny[0] 'https://new.test/'"
    assert _edits(place) == [told]
    assert _service(place).history()[0].summary == told


def test_a_version_whose_tests_fail_by_now_is_restored_without_them(place: Workspace) -> None:
    tested = f"{BY_HAND}anonymous: global\ntests: [{{allow: ['https://lease.test/']}}]\n"
    lease = tested.replace("[old.test]", "[{host: lease.test, expires: 2001-09-09T02:00:00Z}]")
    place.policy_file.write_text(lease)
    version = _version(place)
    _allow(_service(place), "new.test")
    later = EditService(place, place.policy_file, clock=lambda: NOW + 86_400)
    with pytest.raises(ForbiddenByTestsError) as caught:
        later.restore(version, actor="cli:me", why="")
    assert caught.value.problems[0].line == 6, "the same tests are in the file as it is"
    assert later.restore(version, actor="cli:me", why="", update_tests=True).changed
    assert "tests: []" in place.policy_file.read_text()
