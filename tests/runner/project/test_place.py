"""Which directory is taken for a project, as whom a tool works, and where it begins."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine_answers import EngineFacts
from cloned_proxy.runner.project.place import check_own_path, project_of, user_of_caller, working_directory
from cloned_proxy.runner.values.errors import SandboxInputError

FACTS = EngineFacts("Docker", "24.0", "1.43", "overlay2", (), (), rootless=False, cgroup="v2")


def _entry(uid: int, home: str) -> pwd.struct_passwd:
    return pwd.struct_passwd(("somebody", "x", uid, uid, "", home, "/bin/sh"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of somebody else whom this machine knows, and of nobody more."""
    found = tmp_path / "homes" / "alice"
    found.mkdir(parents=True)
    monkeypatch.setattr(pwd, "getpwall", lambda: [_entry(1234, str(found)), _entry(0, "/root")])
    monkeypatch.setenv("HOME", str(found))
    return found


def test_the_directory_that_holds_the_workspace_is_the_project(home: Path) -> None:
    project = home / "code"
    (project / "deep").mkdir(parents=True)
    assert project_of(project / ".cloned", project / "deep") == project


@pytest.mark.parametrize("place_of", ["home", "above", "root", "root's home", "system", "tmp", "link", "by HOME alone"])
def test_a_home_and_what_is_above_it_are_never_taken(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place_of: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(home)
    if place_of == "by HOME alone":
        monkeypatch.setattr(pwd, "getpwall", list)
    refused = {"home": home, "above": home.parent, "root": Path("/"), "root's home": Path("/root"),
               "system": Path("/etc"), "tmp": Path("/tmp"), "link": link, "by HOME alone": home}[place_of]  # fmt: skip
    with pytest.raises(SandboxInputError, match="never taken for a project") as caught:
        project_of(refused / ".cloned", refused)
    assert "`cd` into a project" in str(caught.value)
    assert "--project none" in str(caught.value)


def test_a_workspace_in_a_home_takes_the_directory_where_the_caller_is(home: Path) -> None:
    code = home / "code"
    code.mkdir()
    assert project_of(home / ".cloned", code) == code
    with pytest.raises(SandboxInputError, match="home directory"):
        project_of(home / ".cloned", Path("/usr"))


def test_a_service_whose_home_is_everywhere_takes_no_project_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwall", lambda: [_entry(33, str(tmp_path)), _entry(65534, "/"), _entry(2000, "/")])
    monkeypatch.setenv("HOME", "/")
    assert project_of(tmp_path / ".cloned") == tmp_path


def test_the_callers_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "getegid", lambda: 567)
    assert user_of_caller(None, FACTS) == "1234:567"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_for_root_it_is_whoever_owns_the_project(tmp_path: Path) -> None:
    with pytest.raises(SandboxInputError, match=r"never runs as root; give .* to a user"):
        user_of_caller(tmp_path, FACTS)
    with pytest.raises(SandboxInputError, match="never runs as root; leave it out"):
        user_of_caller(None, FACTS)
    os.chown(tmp_path, 1234, 567)
    assert user_of_caller(tmp_path, FACTS) == "1234:567"


@pytest.mark.parametrize("facts", [
    EngineFacts("Docker", "24.0", "1.43", "overlay2", ("name=rootless",), (), rootless=True, cgroup="v2"),
    EngineFacts("Docker", "24.0", "1.43", "overlay2", ("name=userns",), (), rootless=False, cgroup="v2"),
])  # fmt: skip
def test_an_engine_with_user_ids_of_its_own_is_named(facts: EngineFacts) -> None:
    with pytest.raises(SandboxInputError, match="userns-remap"):
        user_of_caller(None, facts)


def test_where_a_command_begins(tmp_path: Path) -> None:
    project = tmp_path / "code"
    deep = project / "deep"
    deep.mkdir(parents=True)
    (project / "file").touch()
    (project / "out").symlink_to("/etc")
    inside = ("/workspace", "/sandbox", "/mnt/data")

    def begins(wish: str | None, here: Path, of: Path | None = project) -> str:
        return working_directory(wish, here, of, inside)

    assert begins(None, deep) == str(deep)
    assert begins(None, Path("/usr")) == "/workspace"
    assert begins(None, deep, None) == "/sandbox"
    assert begins("deep", project) == str(deep)
    assert begins(str(deep), Path("/")) == str(deep)
    assert begins("/mnt/data/x/../y", deep) == "/mnt/data/y"
    for wish in ("/etc", "..", "out", "/workspace/../etc", "/"):
        with pytest.raises(SandboxInputError, match="not in"):
            begins(wish, project)
    for wish in ("file", "nothing"):
        with pytest.raises(SandboxInputError, match="not a directory"):
            begins(wish, project)


def test_a_project_does_not_lie_over_the_sandboxs_own() -> None:
    for taken in ("/proc/x", "/sandbox", "/opt/cloned"):
        with pytest.raises(SandboxInputError, match="sandbox's own"):
            check_own_path(Path(taken))
    check_own_path(Path("/srv/code"))
