"""A person decides: exactly once, with the policy file, whatever crashes or is edited meanwhile."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.approvals.approval import Approval
from cloned_proxy.store.approvals.approval_errors import DecidedError
from cloned_proxy.store.approvals.approval_table import Intent
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.leases import deadline
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.store.asking import ACTOR, NOW, TOOL, Scene, asks

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "ws")


def _decide(root: Path, approval_id: str, number: int, results: Any) -> None:
    service = ApprovalService(Workspace(root))
    try:
        if number % 2:
            service.reject(approval_id, actor=f"cli:{number}")
        else:
            service.approve(approval_id, actor=f"cli:{number}")
    except DecidedError:
        results.put(None)
    else:
        results.put(number)


def test_of_decisions_at_once_exactly_one_wins(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    workspace.create()
    workspace.policy_file.write_text("version: 1\n")
    service = ApprovalService(workspace)
    for round_number in range(4):
        asked = service.ask(TOOL, asks(f"h{round_number}.example.com"))
        results: Any = FORK.Queue()
        deciding = [
            FORK.Process(target=_decide, args=(workspace.root, asked.id, number, results)) for number in range(6)
        ]
        for process in deciding:
            process.start()
        told = [results.get(timeout=30) for _ in deciding]
        for process in deciding:
            process.join(30)
        (winner,) = [number for number in told if number is not None]
        decided = service.get(asked.id)
        assert decided.decided_by == f"cli:{winner}"
        assert decided.state == ("rejected" if winner % 2 else "approved")
        written = f"h{round_number}.example.com" in workspace.policy_file.read_text()
        assert written == (decided.state == "approved")
    with AuditLog(workspace.state_db) as log:
        steps = [entry.body["action"] for entry in log.entries(types=("approval",))]
        assert len(steps) == 8  # asked and decided, once each
        assert log.verify().holds


def test_a_hand_edit_between_view_and_yes_is_a_conflict_and_nothing_is_lost(scene: Scene) -> None:
    asked = scene.ask()
    seen = scene.service().evidence(asked.id).policy_version
    scene.policy_file.write_text("version: 1  # by hand\n")
    before = scene.file()
    with pytest.raises(ConflictError, match="look at what changed"):
        scene.service().approve(asked.id, actor=ACTOR, expected_version=seen)
    assert scene.file() == before
    assert scene.service().get(asked.id).state == "pending"
    assert scene.steps() == [("asked", f"tool:{TOOL}"), ("conflict", ACTOR)]
    again = scene.service().evidence(asked.id).policy_version
    assert scene.service().approve(asked.id, actor=ACTOR, expected_version=again).changed


def test_a_policy_that_is_broken_by_hand_refuses_the_yes_and_keeps_the_request(scene: Scene) -> None:
    asked = scene.ask()
    scene.policy_file.write_text("version: 1\nglobl: {}\n")
    with pytest.raises(PolicyError):
        scene.service().approve(asked.id, actor=ACTOR)
    scene.policy_file.write_text("version: 1\n")
    assert scene.service().approve(asked.id, actor=ACTOR).changed


def test_tests_in_the_policy_file_have_the_last_word(tmp_path: Path) -> None:
    text = f"version: 1\ntests:\n  - {{tool: {TOOL}, deny: ['https://api.example.com/']}}\n"
    scene = Scene(tmp_path / "ws", text)
    asked = scene.ask()
    before = scene.file()
    with pytest.raises(PolicyError, match="should be denied"):
        scene.service().approve(asked.id, actor=ACTOR)
    assert scene.file() == before
    assert scene.service().get(asked.id).state == "pending"


def test_a_wall_clock_set_back_does_not_lengthen_the_wait(scene: Scene) -> None:
    asked = scene.ask()
    scene.up += 900
    scene.now -= 3600
    assert scene.service().get(asked.id).state == "expired"
    with pytest.raises(DecidedError):
        scene.service().approve(asked.id, actor=ACTOR)


def test_after_a_boot_only_the_wall_clock_counts_and_one_that_was_set_back_ends_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scene.ask()
    monkeypatch.setattr(deadline, "boot_id", lambda: "another")
    scene.up = 5.0
    scene.now += 800
    assert scene.service().get(asked.id).state == "pending"
    scene.now = NOW - 3600
    assert scene.service().get(asked.id).state == "expired"
    scene.now = NOW + 900
    assert scene.service().get(asked.id).state == "expired"


class Crash(BaseException):
    pass


def _crash(*_: object, **__: object) -> None:
    raise Crash


def test_a_crash_behind_the_edit_counts_as_the_yes_that_it_was(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scene.ask()
    service = scene.service()
    with monkeypatch.context() as broken:
        broken.setattr(service._ledger, "approve", _crash)
        broken.setattr(service._ledger, "take_back", _crash)
        with pytest.raises(Crash):
            service.approve(asked.id, actor=ACTOR)
    assert "api.example.com" in scene.policy_file.read_text()
    scene.pass_time(1000)  # too late to decide; but it was decided
    assert scene.service().get(asked.id).state == "pending"
    scene.service().expire()
    assert scene.service().get(asked.id).state == "approved"
    assert scene.service().get(asked.id).decided_by == ACTOR


def test_a_crash_before_the_edit_leaves_the_request_open(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scene.ask()
    before = scene.file()
    service = scene.service()
    begin = service._ledger.begin

    def begin_and_crash(approval: Approval, intent: Intent) -> None:
        begin(approval, intent)
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(service._ledger, "begin", begin_and_crash)
        broken.setattr(service._ledger, "take_back", _crash)
        with pytest.raises(Crash):
            service.approve(asked.id, actor=ACTOR)
    scene.service().expire()
    assert scene.file() == before
    assert scene.service().get(asked.id).state == "pending"
    scene.service().reject(asked.id, actor=ACTOR)
    assert scene.file() == before


def test_a_database_that_is_locked_or_read_only_refuses_and_changes_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloned_proxy.store.audit.database.BUSY_SECONDS", 0.05)
    asked = scene.ask()
    before = scene.file()
    holder = sqlite3.connect(scene.workspace.state_db, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for decide in (scene.service().approve, scene.service().reject):
        with pytest.raises(StoreError, match="locked"):
            decide(asked.id, actor=ACTOR)
    with pytest.raises(StoreError, match="locked"):
        scene.ask("other.example.com")
    assert [each.id for each in scene.service().list("pending")] == [asked.id]  # reading goes on
    holder.execute("ROLLBACK")
    holder.close()
    assert scene.file() == before
    assert scene.service().approve(asked.id, actor=ACTOR).changed
