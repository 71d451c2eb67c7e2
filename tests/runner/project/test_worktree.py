"""git in a linked worktree, whose repository lies outside of the project."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cloned_proxy.runner.project.view import view_of
from cloned_proxy.runner.project.worktree import linked_repository
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.runner.jobs import sh
from tests.runner.project.conftest import give
from tests.runner.project.test_guarded import git
from tests.runner.project.test_project import WRITABLE


@pytest.fixture
def main(tmp_path: Path) -> Path:
    found = tmp_path / "main"
    found.mkdir()
    git("init", "-q", cwd=found)
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=found)
    return found


def test_it_is_found_and_only_what_a_commit_writes_is_writable(main: Path, tmp_path: Path) -> None:
    project = tmp_path / "tree"
    git("worktree", "add", "-q", project, cwd=main)
    linked = linked_repository(project)
    assert linked is not None
    assert (linked.common, linked.own) == (main / ".git", main / ".git/worktrees/tree")
    view = view_of(WRITABLE, project / ".cloned", (), project)
    writable = {bind.target for bind in view.binds if not bind.read_only}
    own = f"{main}/.git/worktrees/tree"
    assert writable == {
        "/workspace",
        str(project),
        own,
        *(f"{main}/.git/{name}" for name in ("objects", "refs", "logs")),
    }
    assert {f"{own}/commondir", f"{own}/gitdir", f"{main}/.git"} <= {
        bind.target for bind in view.binds if bind.read_only
    }


def test_a_file_that_only_says_so_shows_nothing(main: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    git("worktree", "add", "-q", theirs, cwd=main)
    project = tmp_path / "downloaded"
    project.mkdir()
    secret = tmp_path / "secret"
    (secret / "worktrees/x").mkdir(parents=True)
    for text in (
        f"gitdir: {main}/.git/worktrees/theirs\n",  # a worktree, of another directory
        f"gitdir: {secret}/worktrees/x\n",
        f"gitdir: {secret}\n",
        f"gitdir: {main}/.git\n",
        "gitdir: \n",
        "/etc\n",
        "\0",
        "",
    ):
        (project / ".git").write_text(text)
        assert linked_repository(project) is None, text
    (project / ".git").unlink()
    (project / ".git").symlink_to(theirs / ".git")
    assert linked_repository(project) is None


@pytest.mark.docker
def test_a_commit_in_a_linked_worktree(
    runner: DockerContainerRunner, main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = runner.project
    for path in project.iterdir():
        if path.name != ".cloned":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    git("worktree", "add", "-q", "--force", "--no-checkout", main / "place", cwd=main)
    # git wants an empty directory; the project has its workspace already.
    (main / "place/.git").rename(project / ".git")
    (main / ".git/worktrees/place/gitdir").write_text(f"{project}/.git\n")
    give(project)
    give(main)
    monkeypatch.chdir(project)
    commit = "git -c user.name=n -c user.email=n@example.com commit -q -m inside"
    attack = f"echo ../evil >{main}/.git/commondir; echo x >{main}/.git/hooks/x; echo ref: x >{main}/.git/HEAD"
    seen = sh(runner, f"{attack}; echo text >new && git add new && {commit} && git log --format=%s", project=WRITABLE)
    assert (seen.code, seen.out) == (0, "inside\nx\n"), seen
    for name in ("commondir", "hooks/x", "HEAD"):
        assert f"cannot create {main}/.git/{name}: Read-only file system" in seen.err
    words = ["git", "-c", "safe.directory=*", "log", "--format=%s", "place", "--"]
    done = subprocess.run(words, cwd=main, capture_output=True, text=True, check=True)
    assert done.stdout == "inside\nx\n"
    (project / ".git").unlink()
