"""Which jobs a container may wait for, without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.project.view import ProjectWish, view_of
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.prepared import can_wait
from cloned_proxy.runner.values.spec import Mount


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "code" / ".cloned"
    path.mkdir(parents=True)
    return path


def job(env: Mapping[str, str]) -> Job:
    return Job(tool="a@v1", program=ToolProgram(PYTHON_IMAGE, ("true",)), env=env)


@pytest.mark.parametrize(("env", "waits"), [({}, True), ({"MY_PATH": "/x"}, True), ({"PATH": "/x"}, False)])
def test_no_container_waits_for_a_command_with_a_path_of_its_own(
    workspace: Path, env: dict[str, str], waits: bool
) -> None:
    """A shell waits in it, which this path might not have, or have another one."""
    view = view_of(ProjectWish(), workspace, (), workspace.parent)
    assert can_wait(job(env), view) is waits


def test_no_container_waits_with_a_directory_that_it_may_write(workspace: Path, tmp_path: Path) -> None:
    """As long as it waited, no other tool would be shown what lies there."""
    (tmp_path / "data").mkdir()
    for read_only in (True, False):
        mounts = (Mount(str(tmp_path / "data"), "/mnt/data", read_only),)
        assert can_wait(job({}), view_of(ProjectWish(), workspace, mounts, workspace.parent)) is read_only
