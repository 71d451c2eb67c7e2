"""Kept homes: one for each tool, shared by its runs, bounded, removed without following what the tool planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.files.homes import Homes
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.runs.sweeping import sweep_directory
from cloned_proxy.runner.values.errors import SandboxError, SandboxInputError, ToolLimitError
from cloned_proxy.runner.values.spec import MIB
from tests.cli.conftest import workspace as plain_workspace  # noqa: F401  a fixture
from tests.cli.program import Workspace
from tests.runner.conftest import Serving, start_serving, write_policy
from tests.runner.jobs import TOOL, sh
from tests.runner.local_registry import Registry, local_registry

USER = "65532:65532"
OTHER = "other.tool@v1"
SIZE = 64 * MIB


def _no_sweep(_path: Path, _user: str) -> None:
    raise AssertionError("this user may remove its own files")


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path / ".cloned")


def test_only_its_tool_comes_to_a_home(homes: Homes, tmp_path: Path) -> None:
    with homes.use(TOOL, user=USER, size=SIZE) as one, homes.use(OTHER, user=USER, size=SIZE) as another:
        assert (one, another) == tuple(tmp_path / ".cloned" / "homes" / tool / "home" for tool in (TOOL, OTHER))
        assert [oct(path.stat().st_mode & 0o7777) for path in (one, *list(one.parents)[:2])] == [
            "0o1777",
            "0o700",
            "0o700",
        ]
    for tool in ("../../etc", ".", "a/b", ""):
        with pytest.raises(SandboxInputError, match="not a tool id"), homes.use(tool, user=USER, size=SIZE):
            pass


def test_two_runs_share_it_and_a_reset_waits_for_neither(homes: Homes) -> None:
    with homes.use(TOOL, user=USER, size=SIZE) as one, homes.use(TOOL, user=USER, size=SIZE) as two:
        assert one == two
        assert [home.in_use for home in homes.list()] == [True]
        with pytest.raises(SandboxInputError, match="in use"):
            homes.reset(TOOL, _no_sweep)
    assert [(home.tool, home.user, home.in_use) for home in homes.list()] == [(TOOL, USER, False)]
    homes.reset(TOOL, _no_sweep)
    assert homes.list() == []
    with pytest.raises(SandboxInputError, match="no kept home"):
        homes.reset(TOOL, _no_sweep)


def test_another_users_files_are_not_mixed_in_and_a_reset_hands_it_over(homes: Homes) -> None:
    with homes.use(TOOL, user=USER, size=SIZE):
        pass
    with (
        pytest.raises(SandboxInputError, match=r"of user 65532:65532, and this run is user 1000: .*--user me"),
        homes.use(TOOL, user="1000", size=SIZE),
    ):
        pass
    homes.reset(TOOL, _no_sweep)
    with homes.use(TOOL, user="1000", size=SIZE):
        pass


def test_a_home_that_cannot_be_made_is_said(homes: Homes, tmp_path: Path) -> None:
    (tmp_path / ".cloned").mkdir()
    (tmp_path / ".cloned" / "homes").write_text("a file")
    with pytest.raises(SandboxError, match="the home cannot be made"), homes.use(TOOL, user=USER, size=SIZE):
        pass


def test_a_full_home_is_said_before_anything_runs(homes: Homes) -> None:
    with homes.use(TOOL, user=USER, size=SIZE) as home:
        (home / "big").write_bytes(b"x" * 3_000_000)
    with (
        pytest.raises(SandboxInputError, match=rf"full: .*`cloned-proxy home reset {TOOL}`"),
        homes.use(TOOL, user=USER, size=MIB),
    ):
        pass
    with homes.use(TOOL, user=USER, size=SIZE):
        pass


def test_a_reset_removes_links_and_not_what_they_point_to(homes: Homes, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("alive")
    with homes.use(TOOL, user=USER, size=SIZE) as home:
        (home / "directory").symlink_to(canary)
        (home / "file").symlink_to(canary / "file")
        (home / "deep").mkdir()
        (home / "deep" / "up").symlink_to(tmp_path)
    homes.reset(TOOL, _no_sweep)
    assert (canary / "file").read_text() == "alive"


@pytest.fixture
def workspace(plain_workspace: Workspace) -> Workspace:  # noqa: F811  the fixture
    return plain_workspace


def test_the_command_lists_asks_and_resets(workspace: Workspace) -> None:
    workspace.write_policy("version: 1\n")
    assert "no home is kept" in workspace.call("home", "list").stderr
    for tool in (TOOL, OTHER):
        with Homes(workspace.path).use(tool, user=USER, size=SIZE) as home:
            (home / "file").write_bytes(b"x" * 2_000_000)
    listed = json.loads(workspace.call("home", "list", "--json").stdout)
    assert [(each["tool"], each["user"], each["in_use"], each["complete"]) for each in listed] == [
        (TOOL, USER, False, True),
        (OTHER, USER, False, True),
    ]
    assert all(2_000_000 <= each["bytes"] < 3_000_000 and each["entries"] == 1 for each in listed)
    assert "1.9 MiB" in workspace.call("home", "list").stdout

    refused = workspace.call("home", "reset", TOOL)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert len(Homes(workspace.path).list()) == 2
    done = workspace.call("home", "reset", TOOL, "--yes")
    assert (done.returncode, f"{TOOL}: its home is gone" in done.stderr) == (0, True)
    assert [home.tool for home in Homes(workspace.path).list()] == [OTHER]
    assert workspace.call("home", "reset", TOOL, "--yes").returncode == 2
    done = workspace.call("home", "reset", "--yes", "--json")
    assert [each["tool"] for each in json.loads(done.stdout)] == [OTHER]
    assert workspace.call("home", "reset", "--yes").returncode == 0


@pytest.fixture
def kept(module_serving: Serving) -> Iterator[Path]:
    """The workspace; its homes are gone afterwards."""
    yield module_serving.workspace
    for home in Homes(module_serving.workspace).list():
        Homes(module_serving.workspace).reset(home.tool, _no_sweep if os.geteuid() == 0 else _swept)


def _swept(path: Path, user: str) -> None:
    sweep_directory(Engine.connect(), path.parents[2], path, user)


@pytest.mark.docker
def test_what_a_tool_puts_into_a_kept_home_is_there_at_its_next_run_and_for_nobody_else(
    runner: DockerContainerRunner, kept: Path
) -> None:
    script = "echo '#!/bin/sh\necho kept' > ~/bin && chmod 700 ~/bin && mkdir -m 700 ~/closed && touch ~/closed/x"
    assert sh(runner, script, home=True).code == 0
    assert sh(runner, "~/bin; ls ~/closed", home=True).out == "kept\nx\n"
    assert sh(runner, "ls -A ~", home=True, tool=OTHER).out == ""
    assert sh(runner, "ls -A ~").out == ""
    assert "homes" not in sh(runner, "find / -name homes 2>/dev/null; true").out


@pytest.mark.docker
def test_two_runs_of_one_tool_are_in_its_home_at_once(runner: DockerContainerRunner, kept: Path) -> None:
    first = threading.Thread(target=sh, args=(runner, "touch ~/here; until test -e ~/seen; do sleep 0.1; done"),
                             kwargs={"home": True, "timeout": 60})  # fmt: skip
    first.start()
    seen = sh(runner, "until test -e ~/here; do sleep 0.1; done; touch ~/seen; echo met", home=True, timeout=60)
    first.join(60)
    assert (seen.out, first.is_alive()) == ("met\n", False)


@pytest.mark.docker
def test_a_kept_home_is_bounded_and_its_links_lead_nowhere_on_this_machine(kept: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"x" * 50 * MIB)
    (kept / "config.yaml").write_text("sandbox: {kept_home_mib: 20}\n")
    try:
        with DockerContainerRunner(workspace=kept, spare_slots=0) as small:
            # What lies behind the links counts for nothing.
            assert sh(small, f"ln -s {tmp_path} ~/out; ln -s {canary} ~/file", home=True).code == 0
            with pytest.raises(ToolLimitError, match=r"/home/tool; 20 MiB"):
                sh(small, "head -c 40000000 /dev/zero > ~/a; sync; sleep 60", home=True, timeout=60)
            with pytest.raises(SandboxInputError, match="is full"):
                sh(small, "true", home=True)
    finally:
        (kept / "config.yaml").unlink()
    Homes(kept).reset(TOOL, _no_sweep)
    assert canary.stat().st_size == 50 * MIB


@pytest.mark.docker
def test_without_root_the_tools_own_user_empties_its_home(
    runner: DockerContainerRunner, kept: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sh(runner, "mkdir -m 700 ~/d && touch ~/d/x && chmod 0 ~/d && ln -s /etc/passwd ~/l", home=True)
    swept: list[str] = []

    def remove(path: Path) -> bool:
        if swept:
            path.rmdir()  # nothing may be left in it
            return True
        return False

    def sweep(path: Path, user: str) -> None:
        sweep_directory(engine, kept, path, user)
        swept.append(user)

    monkeypatch.setattr("cloned_proxy.runner.files.homes.remove_scratch", remove)
    Homes(kept).reset(TOOL, sweep)
    assert (swept, Homes(kept).list()) == ([USER], [])


def test_what_cannot_be_removed_is_said(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    with homes.use(TOOL, user=USER, size=SIZE):
        pass
    monkeypatch.setattr("cloned_proxy.runner.files.homes.remove_scratch", lambda _: False)
    with pytest.raises(SandboxError, match="could not be removed"):
        homes.reset(TOOL, lambda *_: None)
    assert [home.tool for home in homes.list()] == [TOOL]


INSTALLING = """\
python3 -m venv ~/v && ~/v/bin/pip install -q --disable-pip-version-check --index-url {simple} hello-home
uvx -q --index-url {simple} hello-home && npm_config_registry={npm} npx -y hello-home
"""


BY_NAME = """\
set -e
pip install -q --disable-pip-version-check --index-url {simple} hello-home && hello-home && rm -rf ~/.local
uv tool install -q --index-url {simple} hello-home && hello-home && rm -rf ~/.local
npm_config_registry={npm} npm install --global --silent hello-home && hello-home && bash -lc hello-home
ln -s /bin/true ~/.local/bin/git && command -v git
"""


@pytest.fixture
def installing(images: Engine, tmp_path: Path) -> Iterator[tuple[DockerContainerRunner, Registry]]:
    """A runner whose tool may use a registry."""
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    with local_registry() as registry:
        write_policy(workspace, registry.port)
        serving = start_serving(workspace)
        try:
            with DockerContainerRunner(workspace=workspace, spare_slots=0) as runner:
                yield runner, registry
        finally:
            serving.stop()


@pytest.mark.docker
@pytest.mark.timeout(300)
def test_what_npx_uvx_venv_and_pip_put_into_the_home_runs(
    installing: tuple[DockerContainerRunner, Registry],
) -> None:
    runner, registry = installing
    script = INSTALLING.format(simple=registry.simple, npm=registry.npm)
    seen = sh(runner, script, home=True, timeout=250)
    assert (seen.out, seen.code) == ("hello from python\nhello from node\n", 0), seen.err
    assert sh(runner, "~/v/bin/hello-home", home=True, timeout=100).out == "hello from python\n"


@pytest.mark.docker
@pytest.mark.timeout(300)
def test_what_pip_uv_and_npm_install_is_found_by_its_name_and_stands_in_for_nothing_of_the_image(
    installing: tuple[DockerContainerRunner, Registry],
) -> None:
    runner, registry = installing
    seen = sh(runner, BY_NAME.format(simple=registry.simple, npm=registry.npm), home=True, timeout=250)
    greetings = "hello from python\n" * 2 + "hello from node\n" * 2
    assert (seen.out, seen.code) == (f"{greetings}/usr/bin/git\n", 0), seen.err
    assert sh(runner, "hello-home", home=True, timeout=100).out == "hello from node\n"
    own = "echo prefix=$HOME/mine >~/.npmrc && npm config get prefix && CLONED_SANDBOX= HOME=/ npm prefix --global"
    assert sh(runner, own, timeout=100).out == "/home/tool/mine\n/usr/local\n"


@pytest.mark.docker
def test_exec_takes_a_variable_of_this_environment_over(kept: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cloned_proxy",
            "exec",
            "--workspace",
            str(kept),
            "--env",
            "GREETING",
            TOOL,
            "--",
            "env",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"GREETING": "hello", "OTHER": "hunter2"},
    )
    assert ("GREETING=hello" in done.stdout.splitlines(), "hunter2" in done.stdout) == (True, False), done.stderr
