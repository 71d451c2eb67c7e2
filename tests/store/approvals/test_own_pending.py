"""What is told to a fleet twice a second: read again only where state.db may have changed, and then always."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.store.approvals import approval_mirror
from cloned_proxy.store.approvals.approval_ledger import ApprovalLedger
from cloned_proxy.store.approvals.approval_mirror import ApprovalMirror
from cloned_proxy.store.audit.audit_log import AuditLog
from tests.store.asking import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "ws")
    with AuditLog(made.workspace.state_db):  # as `serve` holds it open: the write-ahead log stays
        yield made


def mirror_of(scene: Scene) -> ApprovalMirror:
    return ApprovalMirror(scene.workspace.state_db, clock=lambda: scene.now, uptime=lambda: scene.up)


def ids(mirror: ApprovalMirror) -> set[str]:
    return {approval.id for approval, _ in mirror.own_pending()}


def test_it_is_read_again_when_it_was_written(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[float] = []
    reading = ApprovalLedger.reading

    def counted(self: ApprovalLedger) -> object:
        read.append(scene.up)
        return reading(self)

    mirror = mirror_of(scene)
    monkeypatch.setattr(ApprovalLedger, "reading", counted)
    for _ in range(10):
        scene.pass_time(0.5)
        assert ids(mirror) == set()
    assert len(read) == 2
    monkeypatch.setattr(ApprovalLedger, "reading", reading)
    one, two = scene.ask("a.example.com"), scene.ask("b.example.com")
    monkeypatch.setattr(ApprovalLedger, "reading", counted)
    for _ in range(10):
        scene.pass_time(0.5)
        assert ids(mirror) == {one.id, two.id}
    assert len(read) == 4
    scene.pass_time(900)  # their own time, which needs no reading
    assert ids(mirror) == set()
    assert len(read) == 4


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_written_within_a_tick_of_the_clock_is_seen(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """A file system may stamp both writes alike, and SQLite writes again over what was checkpointed."""
    monkeypatch.setattr(approval_mirror, "signature_of", lambda _path: (1, 1, 1, 1, 1))
    if broken:
        monkeypatch.setattr(approval_mirror, "_TICK_SECONDS", 0.0)
    mirror = mirror_of(scene)
    assert ids(mirror) == set()
    asked = scene.ask("a.example.com")
    assert ids(mirror) == (set() if broken else {asked.id})
