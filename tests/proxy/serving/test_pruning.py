"""Leases leave the file a day after they ended, by themselves; a file that cannot be edited is left in peace."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.proxy.serving.pruning import AFTER, LeasePruner
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.workspace import Workspace

ENDS = 1_000_000_000.0
UNTIL = f"{datetime.fromtimestamp(ENDS, UTC):%Y-%m-%dT%H:%M:%SZ}"
TEXT = f"version: 1\nglobal:\n  allow:\n    - a.test\n    - {{host: b.test, expires: {UNTIL}}}\n"


class _Scene:
    """A workspace with the policy that is in force, and a clock."""

    def __init__(self, root: Path) -> None:
        self.now = ENDS
        self.workspace = Workspace(root / ".cloned")
        self.workspace.create()
        self.file.write_text(TEXT)
        self.pruner = LeasePruner(self.workspace, self.file, policies=self, clock=lambda: self.now)

    @property
    def file(self) -> Path:
        return self.workspace.policy_file

    @property
    def current(self) -> Policy:
        return load_policy(self.file, self.now)


@pytest.fixture
def scene(tmp_path: Path) -> _Scene:
    return _Scene(tmp_path)


async def test_a_lease_leaves_the_file_a_day_after_its_end_and_not_before(scene: _Scene) -> None:
    scene.now = ENDS + AFTER - 1
    await scene.pruner.look()
    assert scene.file.read_text() == TEXT
    scene.now += 1
    await scene.pruner.look()
    assert [str(rule.pattern) for rule in scene.current.rules] == ["a.test"]


async def test_a_file_that_cannot_be_edited_is_left_in_peace_until_another_is_in_force(
    scene: _Scene,
) -> None:
    scene.now = ENDS + AFTER
    good = scene.file.read_text()
    in_force = scene.current
    pruner = LeasePruner(scene.workspace, scene.file, policies=_Fixed(in_force), clock=lambda: scene.now)
    scene.file.write_text("version: 2\n")
    await pruner.look()
    scene.file.write_text(good)
    await pruner.look()
    assert scene.file.read_text() == good, "the same version is not tried again"
    pruner = LeasePruner(scene.workspace, scene.file, policies=_Fixed(in_force), clock=lambda: scene.now)
    await pruner.look()
    assert scene.file.read_text() != good


class _Fixed:
    """One policy in force, whatever the file says."""

    def __init__(self, policy: Policy) -> None:
        self.current = policy
