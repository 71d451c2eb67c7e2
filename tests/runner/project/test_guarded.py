"""Which paths of a project stay as they are while a tool may write the rest, and which directories stay in place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloned_proxy.runner.project import guarded
from cloned_proxy.runner.project.guarded import Guards, guards_of
from cloned_proxy.runner.project.place import ProjectAccess
from cloned_proxy.runner.project.survey import look_through
from cloned_proxy.runner.project.view import ProjectWish, view_of
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import Mount


def git(*words: str | Path, cwd: Path) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.com", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *identity, *words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    found = tmp_path / "code"
    found.mkdir()
    git("init", "-q", cwd=found)
    return found


def _guards(root: Path, *writable: str) -> Guards:
    survey = look_through(root)
    return guards_of(root, survey.repositories, survey.secret_directories, writable)


def test_what_acts_by_itself_is_read_only_and_the_rest_of_git_is_not(project: Path) -> None:
    for name in (".vscode", ".claude", "src/.vscode"):
        (project / name).mkdir(parents=True)
    (project / ".envrc").touch()
    guards = _guards(project)
    assert guards.read_only == (".claude", ".envrc", ".git/config", ".git/hooks", ".vscode")
    assert guards.pinned == (".git",)


def test_a_repository_below_is_guarded_and_so_is_the_way_to_it(project: Path) -> None:
    (project / "vendor/x").mkdir(parents=True)
    git("init", "-q", cwd=project / "vendor/x")
    (project / "vendor/x/.envrc").touch()
    (project / "deep/er/.cloned").mkdir(parents=True)
    guards = _guards(project)
    assert {"vendor/x/.git/hooks", "vendor/x/.git/config", "vendor/x/.envrc"} <= set(guards.read_only)
    assert set(guards.pinned) == {".git", "vendor", "vendor/x", "vendor/x/.git", "deep", "deep/er"}


def test_submodules_and_linked_worktrees(project: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git("init", "-q", cwd=library)
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=library)
    git("submodule", "add", "-q", library, "libs/one", cwd=project)
    git("commit", "-q", "-m", "x", cwd=project)
    git("worktree", "add", "-q", "trees/two", cwd=project)
    read_only = set(_guards(project).read_only)
    assert {"libs/one/.git", "trees/two/.git"} <= read_only, "files that say where the repository is"
    assert {".git/modules/libs/one/config", ".git/modules/libs/one/hooks"} <= read_only
    assert {".git/worktrees/two/commondir", ".git/worktrees/two/gitdir"} <= read_only
    assert not (project / ".git/worktrees/two/hooks").exists()


def test_what_the_configuration_runs_is_guarded_wherever_it_is(project: Path) -> None:
    for name in ("scripts/hooks", "tools", "src", "refs"):
        (project / name).mkdir(parents=True)
    for name in ("tools/monitor", "tools/filter.sh", "extra.gitconfig", "src/pager"):
        (project / name).touch()
    for key, value in (
        ("core.hooksPath", "scripts/hooks"),
        ("core.fsmonitor", "tools/monitor --fast"),
        ("filter.x.clean", '"tools/filter.sh" %f'),
        ("include.path", "../extra.gitconfig"),
        ("alias.x", "!src/pager"),
        ("remote.here.url", "./src"),
        ("branch.refs.merge", "refs"),
        ("core.editor", "../../../etc"),
    ):
        git("config", key, value, cwd=project)
    found = set(_guards(project).read_only) - {".git/config", ".git/hooks"}
    assert found == {"scripts/hooks", "tools/monitor", "tools/filter.sh", "extra.gitconfig", "src/pager"}


def test_what_is_missing_of_a_repository_is_made(project: Path) -> None:
    for sample in (project / ".git/hooks").iterdir():
        sample.unlink()
    (project / ".git/hooks").rmdir()
    (project / ".git/config").unlink()
    guards = _guards(project)
    assert guards.made == (".git/config", ".git/hooks")
    assert set(guards.made) <= set(guards.read_only)
    assert list((project / ".git/hooks").iterdir()) == []
    assert _guards(project).made == ()


def test_what_is_named_may_be_written(project: Path) -> None:
    (project / ".claude").mkdir()
    (project / ".claude/notes.md").touch()
    assert ".git/config" not in _guards(project, ".git/config").read_only
    assert _guards(project, ".git", ".claude").read_only == ()
    guards = _guards(project, ".claude/notes.md")
    assert (".claude" in guards.read_only, guards.writable) == (True, (".claude/notes.md",))
    mounts = list(guards.mounts(project, "/workspace"))
    assert mounts[-1] == Mount(f"{project}/.claude/notes.md", "/workspace/.claude/notes.md", read_only=False)
    with pytest.raises(SandboxInputError, match="does not exist"):
        _guards(project, ".claude/nothing")


@pytest.mark.parametrize("name", [".vscode", ".git/hooks", ".envrc"])
def test_a_link_in_such_a_place_is_refused_unless_it_is_named(project: Path, name: str) -> None:
    path = project / name
    if path.is_dir():
        for sample in path.iterdir():
            sample.unlink()
        path.rmdir()
    path.symlink_to("/nowhere")
    with pytest.raises(SandboxInputError, match=f"--writable {name}"):
        _guards(project)
    assert name not in _guards(project, name).read_only


def test_nothing_is_mounted_by_way_of_a_link(project: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (secret / "hooks").mkdir(parents=True)
    (project / "scripts").symlink_to(secret)
    git("config", "core.hooksPath", "scripts/hooks", cwd=project)
    with pytest.raises(SandboxInputError, match="scripts/hooks is a link, or lies behind one"):
        _guards(project)
    git("config", "--unset", "core.hooksPath", cwd=project)
    (project / ".claude").mkdir()
    (project / ".claude/notes").symlink_to(secret)
    with pytest.raises(SandboxInputError, match="may lead out"):
        _guards(project, ".claude/notes/hooks")


def test_too_much_to_protect_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "_MAX_MOUNTS", 1)
    with pytest.raises(SandboxInputError, match="would have to be protected"):
        _guards(project)


def test_a_view_has_them_at_every_place_of_a_writable_tree_alone(project: Path, tmp_path: Path) -> None:
    wish = ProjectWish(access=ProjectAccess.READ_WRITE, own_path=True)
    view = view_of(wish, project / ".cloned", (), project)
    for place in ("/workspace", str(project)):
        assert Mount(f"{project}/.git", f"{place}/.git", read_only=False) in view.binds
        assert Mount(f"{project}/.git/hooks", f"{place}/.git/hooks") in view.binds
    assert all(".git" not in bind.target for bind in view_of(ProjectWish(), project / ".cloned", (), project).binds)
    named = view_of(ProjectWish(), project / ".cloned", (Mount(str(project), "/mnt/x", read_only=False),), project)
    assert Mount(f"{project}/.git/config", "/mnt/x/.git/config") in named.binds


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".cloned/policy.yaml", "no tool writes a workspace"),
        (".", "name what may be written"),
        ("../x", "--project rw"),
    ],
)
def test_what_cannot_be_named_to_be_written(project: Path, path: str, message: str) -> None:
    wish = ProjectWish(access=ProjectAccess.READ_WRITE, writable=(path,))
    with pytest.raises(SandboxInputError, match=message):
        view_of(wish, project / ".cloned", (), project)


def test_a_setting_names_them_once_for_all(project: Path) -> None:
    wish = ProjectWish(access=ProjectAccess.READ_WRITE)
    view = view_of(wish, project / ".cloned", (), project, writable=[".git/config", ".not/there"])
    assert f"{project}/.git/config" not in {bind.source for bind in view.binds}
