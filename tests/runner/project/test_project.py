"""`--project`, `--user me` and `--workdir` in a real container: what a tool sees, may write, and never reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.project.place import ProjectAccess
from cloned_proxy.runner.project.view import ProjectWish
from cloned_proxy.runner.runner import DockerContainerRunner
from cloned_proxy.runner.spec import Mount
from tests.runner.jobs import TOOL, sh
from tests.runner.project.conftest import OWNER, give

pytestmark = pytest.mark.docker

WRITABLE = ProjectWish(access=ProjectAccess.READ_WRITE, own_path=True, as_caller=True)
SECRET = "a key that no tool may read"


@pytest.fixture
def project(runner: DockerContainerRunner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project of the module's runner, with a repository, a submodule-like one, and a workspace below."""
    found = runner.project
    (found / "sub/deep").mkdir(parents=True, exist_ok=True)
    (found / "other/.cloned").mkdir(parents=True, exist_ok=True)
    (found / "other/.cloned/identity.key").write_text(SECRET)
    for repository in (found, found / "sub/module"):
        subprocess.run(["git", "init", "-q", repository], check=True)
    give(found)
    found.chmod(0o755)
    monkeypatch.chdir(found / "sub")
    yield found
    give(found)


def test_a_tool_writes_as_the_caller_where_the_caller_is(runner: DockerContainerRunner, project: Path) -> None:
    script = "pwd; id -u; whoami; echo text >made; cat /workspace/sub/made; touch /workspace/made"
    seen = sh(runner, script, project=WRITABLE)
    assert (seen.out, seen.code) == (f"{project}/sub\n{OWNER}\ntool\ntext\n", 0), seen
    for made in (project / "sub/made", project / "made"):
        assert made.stat().st_uid == OWNER
        made.unlink()


def test_programs_find_their_user(runner: DockerContainerRunner, project: Path) -> None:
    program = "import getpass, os, pathlib; os.environ.pop('HOME'); print(getpass.getuser(), pathlib.Path.home())"
    seen = sh(runner, f'echo "$HOME"; python3 -c "{program}"', project=WRITABLE)
    home, found = seen.out.splitlines()
    assert found == f"tool {home}"


@pytest.mark.parametrize("wish", [ProjectWish(), ProjectWish(own_path=True), WRITABLE], ids=["api", "ro", "rw"])
def test_git_trusts_every_repository_of_the_project(
    runner: DockerContainerRunner, project: Path, wish: ProjectWish
) -> None:
    script = "cd /workspace && git status --short && cd sub/module && git log --all && git status --short"
    own = f"&& cd {project} && git status --short && git -C sub/module status --short" if wish.own_path else ""
    seen = sh(runner, script + own, project=wish)
    assert (seen.code, seen.err) == (0, ""), seen


def test_git_still_doubts_what_is_somebody_elses(runner: DockerContainerRunner, project: Path) -> None:
    seen = sh(runner, "GIT_CONFIG_COUNT=0 git -C /workspace status", project=ProjectWish())
    assert "dubious ownership" in seen.err, "the control: without the variables git refuses"


def test_no_key_is_read_through_any_mount(runner: DockerContainerRunner, project: Path) -> None:
    (project / "way").symlink_to("other/.cloned/identity.key")
    (project / "away").symlink_to(f"{project}/other/.cloned")
    script = """
        cat /workspace/other/.cloned/identity.key way away/identity.key /mnt/x/other/.cloned/identity.key
        cat /mnt/x/way /proc/self/root/mnt/x/other/.cloned/identity.key /proc/self/cwd/other/.cloned/identity.key
        cat /proc/1/root/workspace/other/.cloned/identity.key other/../other/.cloned/identity.key
        find / -name identity.key 2>/dev/null; grep -rs 'a key that' /workspace /mnt /sandbox . && echo found
        ln other/.cloned/identity.key copy; umount other/.cloned; rm -rf other/.cloned; rmdir other/.cloned
        mv other moved && cat moved/.cloned/identity.key; mv moved other; cat other/.cloned/identity.key; exit 0
    """
    mounts = (Mount(str(project), "/mnt/x", read_only=False),)
    seen = sh(runner, f"cd {project}; {script}", project=WRITABLE, mounts=mounts)
    assert seen.out == "", seen
    assert (project / "other/.cloned/identity.key").read_text() == SECRET
    for name in ("way", "away"):
        (project / name).unlink()


def test_without_the_masks_the_same_key_is_read(
    runner: DockerContainerRunner, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloned_proxy.runner.project.view._secrets", lambda trees: ([], []))
    if os.geteuid() == 0:
        os.chown(project / "other/.cloned/identity.key", OWNER, OWNER)
    seen = sh(runner, "cat /workspace/other/.cloned/identity.key", project=WRITABLE)
    assert seen.out == SECRET


def test_nothing_of_the_project_is_there_without_it(runner: DockerContainerRunner, project: Path) -> None:
    seen = sh(runner, f"pwd; ls -A /workspace; ls {project}", project=ProjectWish(access=ProjectAccess.NONE))
    assert (seen.out, seen.code) == ("/sandbox\n", 2)


def test_the_command_line(project: Path, runner: DockerContainerRunner) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", str(runner.workspace)]

    def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], capture_output=True, text=True, check=False, timeout=60, cwd=cwd)

    done = run("--project", "rw", "--workdir", "..", TOOL, "--", "sh", "-c", "pwd; id -u; touch a", cwd=project / "sub")
    assert (done.stdout, done.returncode) == (f"{project}\n{OWNER}\n", 0), done.stderr
    (project / "a").unlink()
    done = run(TOOL, "--", "sh", "-c", "pwd; touch a", cwd=project / "sub")
    assert (done.stdout, "Read-only file system" in done.stderr) == (f"{project}/sub\n", True)


def test_a_home_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "exec", TOOL, "--", "true"]
    env = {name: value for name, value in os.environ.items() if name != "CLONED_WORKSPACE"} | {"HOME": str(tmp_path)}
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "is a home directory and never taken for a project" in done.stderr
    assert list(tmp_path.iterdir()) == []
