"""The project, written from Python as the caller: `project="rw"`, `user="me"`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy import DockerContainerRunner
from tests.runner.jobs import TOOL

pytestmark = pytest.mark.docker
ME = 54_321 if os.geteuid() == 0 else os.geteuid()
"""Root is never a tool's user: it is whoever owns the project then."""


@pytest.fixture
def project(module_runner: DockerContainerRunner) -> Iterator[Path]:
    project = module_runner.project
    (project / ".vscode").mkdir()
    (project / "mine").write_text("")
    before = project.stat()
    for path in (project, project / ".vscode", project / "mine"):
        os.chown(path, ME, ME if os.geteuid() == 0 else os.getegid())
    yield project
    os.chown(project, before.st_uid, before.st_gid)
    for path in (project / "mine", project / "made"):
        path.unlink(missing_ok=True)
    (project / ".vscode").rmdir()


SCRIPT = (
    "id -u; pwd; cat >> mine; echo said > made; ls -A .cloned; touch .vscode/tasks.json 2>/dev/null || echo guarded"
)


def test_a_command_writes_it_as_me(module_runner: DockerContainerRunner, project: Path) -> None:
    result = module_runner.exec(TOOL, ["sh", "-c", f"cd {project}; {SCRIPT}"], stdin="told", project="rw", user="me")
    assert (result.exit_code, result.text.split()) == (0, [str(ME), str(project), "guarded"]), result.stderr
    assert (project / "mine").read_text() == "told"
    assert (project / "made").stat().st_uid == ME


async def test_a_session_writes_it_as_me(module_runner: DockerContainerRunner, project: Path) -> None:
    argv = ["sh", "-c", f"cd {project}; {SCRIPT}"]
    async with module_runner.session(TOOL, argv, project="rw", user="me") as session:
        await session.stdin.send(b"told")
        await session.stdin.aclose()
        said = b"".join([piece async for piece in session.stdout]).decode()
        assert await session.wait() == 0
    assert said.split() == [str(ME), str(project), "guarded"]
    assert (project / "mine").read_text() == "told"
    assert (project / "made").stat().st_uid == ME


def test_me_alone_may_read_and_not_write(module_runner: DockerContainerRunner, project: Path) -> None:
    (project / "mine").chmod(0o600)  # nobody else's to read
    script = "id -u; cat mine; echo x > mine || echo refused"
    result = module_runner.exec(TOOL, ["sh", "-c", f"cd {project}; {script}"], user="me")
    assert result.text.split() == [str(ME), "refused"], result.stderr
    as_nobody = module_runner.exec(TOOL, ["cat", "/workspace/mine"])
    assert (as_nobody.exit_code, b"denied" in as_nobody.stderr) == (1, True)
