from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import Config, load_config
from cloned_proxy.store.workspaces.workspace import Workspace


def test_found_by_flag_then_environment_then_upwards_then_here(tmp_path: Path) -> None:
    (tmp_path / "a" / ".cloned").mkdir(parents=True)
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    environ = {"CLONED_WORKSPACE": str(tmp_path / "env")}
    assert Workspace.find(tmp_path / "flag", environ=environ, start=deep).root == tmp_path / "flag"
    assert Workspace.find(environ=environ, start=deep).root == tmp_path / "env"
    assert Workspace.find(environ={}, start=deep).root == tmp_path / "a" / ".cloned"
    assert Workspace.find(environ={}, start=tmp_path).root == tmp_path / ".cloned"


def test_policy_path_by_flag_then_environment_then_config_then_default(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    environ = {"CLONED_POLICY": "/env.yaml"}
    config = Config(policy="other.yaml")
    assert place.policy_path(Path("/flag.yaml"), config=config, environ=environ) == Path("/flag.yaml")
    assert place.policy_path(config=config, environ=environ) == Path("/env.yaml")
    assert place.policy_path(config=config, environ={}) == tmp_path / "other.yaml"
    assert place.policy_path(environ={}) == tmp_path / "policy.yaml"


def test_made_for_its_owner_only(tmp_path: Path) -> None:
    place = Workspace(tmp_path / "new" / ".cloned")
    place.create()
    place.create()
    assert stat.S_IMODE(place.root.stat().st_mode) == 0o700


def _staged(project: Path) -> str:
    """What `git add --all` would put on record."""

    def git(*words: str) -> str:
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run(["git", *words], cwd=project, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    git("init", "--quiet")
    git("add", "--all")
    return git("ls-files")


def test_git_does_not_see_the_workspace(tmp_path: Path) -> None:
    place = Workspace(tmp_path / ".cloned")
    place.create()
    (place.root / "identity.key").write_text("secret")
    assert _staged(tmp_path) == ""


def test_an_edited_gitignore_stays_and_can_keep_the_policy(tmp_path: Path) -> None:
    place = Workspace(tmp_path / ".cloned")
    place.create()
    with place.git_ignore.open("a") as file:
        file.write("!policy.yaml\n")
    place.create()
    for name in ("identity.key", "policy.yaml"):
        (place.root / name).write_text("")
    assert _staged(tmp_path) == ".cloned/policy.yaml\n"


def test_an_older_workspace_gets_a_gitignore_and_a_project_does_not(tmp_path: Path) -> None:
    (tmp_path / ".cloned").mkdir(mode=0o700)
    for place in (Workspace(tmp_path / ".cloned"), Workspace(tmp_path), Workspace(tmp_path / "named")):
        place.create()
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".gitignore"))
    assert found == [".cloned/.gitignore", "named/.gitignore"]


def test_refused_where_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="not a directory; move it away"):
        Workspace(tmp_path / "file").create()


def test_refused_where_others_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="chmod 700"):
        Workspace(tmp_path).create()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_refused_where_it_belongs_to_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to user 12345"):
        Workspace(tmp_path).create()


def test_every_config_problem_at_once_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("proxy:\n  max_connections: 0\n  drain_second: 5\naudit:\n  durability: never\n")
    with pytest.raises(StoreError) as caught:
        load_config(file)
    first, second, third = str(caught.value).splitlines()
    assert first.startswith(f"{file}:2: proxy.max_connections: ")
    assert second == f"{file}:3: proxy.drain_second: unknown setting; did you mean `drain_seconds`?"
    assert third.startswith(f"{file}:5: audit.durability: ")


def test_no_config_and_an_empty_one_are_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    assert load_config(file) == Config()
    file.write_text("# nothing yet\n")
    assert load_config(file) == Config()
