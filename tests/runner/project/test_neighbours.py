"""Two sandboxes over one directory: neither may put something else in the place of what the other is shown."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from cloned_proxy.runner.project.neighbours import movable
from cloned_proxy.runner.runs import execution
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import Mount
from tests.runner.jobs import Seen, sh
from tests.runner.project.conftest import give
from tests.runner.project.test_project import WRITABLE


def _rw(source: str, target: str) -> Mount:
    return Mount(source, target, read_only=False)


WRITER = (_rw("/p", "/workspace"), _rw("/p", "/p"))
PINNED = (_rw("/p/.git", "/workspace/.git"), _rw("/p/.git", "/p/.git"))
CASES: list[tuple[str, tuple[Mount, ...], tuple[Mount, ...], str]] = [
    ("nothing is written", (Mount("/p/x", "/mnt/x"),), (Mount("/p", "/p"),), ""),
    ("elsewhere", (Mount("/other/x", "/mnt/x"), Mount("/pp", "/mnt/y")), WRITER, ""),
    ("the same tree", WRITER, WRITER, ""),
    ("a guard that it has as well", (*WRITER, *PINNED), (*WRITER, *PINNED), ""),
    ("a guard that it has not", (*WRITER, *PINNED), WRITER, "/p/.git"),
    ("a guard that it has at one of two places", (*WRITER, *PINNED), (*WRITER, PINNED[0]), "/p/.git"),
    ("a directory below", (Mount("/p/data", "/mnt/data"),), WRITER, "/p/data"),
    ("one that it sees elsewhere", (Mount("/p/d", "/mnt/d"),), (*WRITER, Mount("/p/d", "/mnt/d")), "/p/d"),
    ("what belongs to one call", (_rw("/p/.cloned/x", "/sandbox"), Mount("/p/.cloned/x/y", "/etc/z")), WRITER, ""),
    ("a scratch directory is no tree", (Mount("/s/x", "/mnt/x"),), (_rw("/s", "/sandbox"),), ""),
]


@pytest.mark.parametrize(("shown", "writer", "found"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_what_a_writer_could_move(shown: tuple[Mount, ...], writer: tuple[Mount, ...], found: str) -> None:
    assert movable(shown, writer) == found


@pytest.mark.docker
def test_what_a_running_tool_made_is_not_mounted_into_another(runner: DockerContainerRunner) -> None:
    project = runner.project
    (project / "data").mkdir()
    give(project)
    project.chmod(0o755)
    ended: list[Seen] = []
    script = "mkdir .vscode; touch began; while [ ! -e over ]; do sleep 0.1; done; rmdir .vscode"
    staying = threading.Thread(
        target=lambda: ended.append(sh(runner, f"cd /workspace; {script}", project=WRITABLE, timeout=90))
    )
    staying.start()
    deadline = time.monotonic() + 60
    while not (project / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        with pytest.raises(SandboxInputError, match=r"\.vscode cannot be shown or protected safely now"):
            sh(runner, "true", project=WRITABLE)
        with pytest.raises(SandboxInputError, match="data cannot be shown"):
            sh(runner, "true", mounts=(Mount(str(project / "data"), "/mnt/data"),))
        assert sh(runner, "true").code == 0
    finally:
        (project / "over").touch()
        staying.join(90)
    assert sh(runner, "true", project=WRITABLE).code == 0
    for name in ("began", "over"):
        (project / name).unlink()
    (project / "data").rmdir()


@pytest.mark.docker
def test_without_the_check_a_link_that_is_swapped_in_shows_the_host(
    runner: DockerContainerRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what a neighbour would do in the time between the survey and the mount."""
    project, secret = runner.project, tmp_path / "secret"
    secret.mkdir(mode=0o755)
    (secret / "key").write_text("of the host")
    (project / ".vscode").mkdir()
    give(project)

    def swap(*_: object) -> None:
        (project / ".vscode").rmdir()
        (project / ".vscode").symlink_to(secret)

    monkeypatch.setattr(execution, "check_neighbours", swap)
    try:
        seen = sh(runner, f"cat {secret}/key /workspace/.vscode/key", project=WRITABLE)
    finally:
        (project / ".vscode").unlink()
    assert "of the host" in seen.out, seen
