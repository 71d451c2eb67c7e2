"""`--project`, `--user me` and `--workdir` in a real container: what a tool sees, may write, and never reads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.project.place import ProjectAccess
from cloned_proxy.runner.project.view import ProjectWish
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import ToolLimitError
from cloned_proxy.runner.values.spec import Mount
from tests.runner.jobs import TOOL, Seen, sh
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
    outside = project.parent / "outside"
    outside.write_text(SECRET)
    (project / "out").symlink_to(outside)
    script = """
        cat /workspace/out ../out /workspace/../outside; ln -s / root; cat root/OUTSIDE; rm root
        cat /workspace/other/.cloned/identity.key way away/identity.key /mnt/x/other/.cloned/identity.key
        top=/proc/self/root
        cat /mnt/x/way $top/mnt/x/other/.cloned/identity.key /proc/self/cwd/other/.cloned/identity.key
        cat /proc/1/root/workspace/other/.cloned/identity.key other/../other/.cloned/identity.key
        find / -name identity.key 2>/dev/null; grep -rs 'a key that' /workspace /mnt /sandbox . && echo found
        ln other/.cloned/identity.key copy; umount other/.cloned; rm -rf other/.cloned; rmdir other/.cloned
        mv other moved && cat moved/.cloned/identity.key; mv moved other; cat other/.cloned/identity.key; exit 0
    """
    mounts = (Mount(str(project), "/mnt/x", read_only=False),)
    script = script.replace("/OUTSIDE", str(outside))
    seen = sh(runner, f"cd {project}; {script}", project=WRITABLE, mounts=mounts)
    assert seen.out == "", seen
    assert (project / "other/.cloned/identity.key").read_text() == SECRET
    for name in ("way", "away", "out"):
        (project / name).unlink()


def test_without_the_masks_the_same_key_is_read(
    runner: DockerContainerRunner, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloned_proxy.runner.project.view.masks_over", lambda trees: ([], []))
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


def test_what_became_of_the_project_is_told_when_the_command_has_ended(
    project: Path, runner: DockerContainerRunner
) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", str(runner.workspace), "--project", "rw"]
    script = "echo text >new; echo 'use flake' >../.envrc; touch ../.git/hooks/x; echo out; exit 3"
    words = [*program, "--diff", TOOL, "--", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, cwd=project / "sub")
    assert (done.stdout, done.returncode) == ("out\n", 3), done.stderr
    told = done.stderr.splitlines()
    assert any("cannot touch '../.git/hooks/x': Read-only file system" in line for line in told)
    assert told[told.index("A sub/new  5 bytes") + 4] == "+text"
    assert told[-2:] == ["  A .envrc", f"  to remove what is new: rm -r -- {project}/.envrc"]
    (project / ".envrc").unlink()
    (project / "sub/new").unlink()


def test_a_home_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "exec", TOOL, "--", "true"]
    env = {name: value for name, value in os.environ.items() if name != "CLONED_WORKSPACE"} | {"HOME": str(tmp_path)}
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "is a home directory and never taken for a project" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard removed"])
def test_a_tool_that_fills_the_disk_is_ended(
    runner: DockerContainerRunner, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    if not guarded:
        monkeypatch.setattr("cloned_proxy.runner.files.disk.Floor.check", lambda _: "")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "tmpfs", disk], check=True)
    try:
        mounts = (Mount(str(disk), "/mnt/disk", read_only=False),)
        script = "n=0; while :; do n=$((n+1)); head -c 4000000 /dev/zero >/mnt/disk/$n || {}; done"
        if guarded:
            with pytest.raises(ToolLimitError, match=f"MiB are free where {disk} lies"):
                sh(runner, script.format("sleep 0.1"), mounts=mounts)
        else:
            assert sh(runner, script.format("exit 7"), mounts=mounts).code == 7, "the disk is full"
            assert os.statvfs(disk).f_bavail == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_at_once_and_the_end_of_one_uncovers_nothing_in_the_other(
    runner: DockerContainerRunner, project: Path
) -> None:
    look = "cat /workspace/other/.cloned/identity.key; mv /workspace/other /workspace/moved"
    first: list[Seen] = []
    script = f"touch began; while [ ! -e over ]; do sleep 0.1; done; {look}"
    staying = threading.Thread(target=lambda: first.append(sh(runner, script, project=WRITABLE, timeout=90)))
    staying.start()
    deadline = time.monotonic() + 60
    while not (project / "sub/began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = sh(runner, f"{look}; touch over", project=WRITABLE)
    staying.join(90)
    for seen in (*first, second):
        assert seen.out == ""
        assert "No such file" in seen.err
        assert "cannot move '/workspace/other'" in seen.err, "what lies above a mask stays where it is"
    assert len(first) == 1
    for name in ("began", "over"):
        (project / "sub" / name).unlink()
