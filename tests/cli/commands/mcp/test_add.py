"""`mcp add --write`: the client's file is tried before anything is baked or saved, and made where it is absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.cli.commands.mcp import add as mcp_add
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.packages import Package
from cloned_proxy.runner.mcp.registry import McpServer
from cloned_proxy.store.files.errors import StoreError
from tests.cli.program import PROGRAM, Workspace

WORDS = ("mcp", "add", "time", "--pypi", "mcp-server-time==2026.10.19", "--env", "ZONE", "--write")


class Bakery:
    """A stand-in for the engine: what a package becomes there is tried in tests/runner."""

    def __init__(self) -> None:
        self.baked: list[str] = []

    def close(self) -> None:
        pass

    def bake(self, _: object, package: Package, server: McpServer) -> McpServer:
        self.baked.append(str(package))
        return server.model_copy(update={"package": f"pypi:{package}", "image": "baked:1"})


@pytest.fixture
def bakery(monkeypatch: pytest.MonkeyPatch) -> Bakery:
    bakery = Bakery()
    monkeypatch.setattr("cloned_proxy.runner.docker.engine.Engine.connect", lambda: bakery)
    monkeypatch.setattr(mcp_add, "bring_worker", lambda *_: None)
    monkeypatch.setattr(mcp_add, "baked", bakery.bake)
    return bakery


@pytest.fixture
def file(workspace: Workspace) -> Path:
    assert workspace.call("init", "--yes").returncode == 0
    return workspace.path.parent / ".mcp.json"


def state(workspace: Workspace) -> dict[Path, bytes]:
    """Every file of the project but the log, which tells of a refused edit, too."""
    found = (path for path in workspace.path.parent.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in found if path.suffix in {".yaml", ".json", ".toml"}}


@pytest.mark.parametrize("text", [None, "{}", "{}\n", '{"mcpServers": {}}'])
def test_a_fresh_project_gets_its_file_and_unwrap_takes_it_back(
    workspace: Workspace, file: Path, bakery: Bakery, text: str | None
) -> None:
    if text is not None:
        file.write_text(text)
    done = workspace.call(*WORDS, str(file))
    assert done.returncode == 0, done.stderr
    entry: dict[str, Any] = {
        "command": str(PROGRAM),
        "args": ["mcp", "run", "time", "--workspace", str(workspace.path)],
        "env": {"ZONE": ""},
    }
    assert json.loads(file.read_text()) == {"mcpServers": {"time": entry}}
    assert bakery.baked == ["mcp-server-time==2026.10.19"]
    noted = "is not there yet: it is made" if text is None else "has no servers yet: it is given mcpServers"
    assert (noted in done.stderr) == ("mcpServers" not in (text or ""))
    assert "+++ " in done.stdout
    assert workspace.json("mcp", "list")[0]["files"] == [str(file)]
    undone = workspace.call("mcp", "unwrap", str(file))
    assert undone.returncode == 0, undone.stderr
    assert (file.read_text() if file.exists() else None) == text
    assert workspace.json("mcp", "list") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "a package"}', "write an empty mcpServers into it first"),
        ('{"mcpServers": {"time": {"command": "a"}}}', "has a server time already"),
        ("{", "put it right by hand"),
    ],
)
def test_a_file_that_cannot_take_it_is_refused_before_anything_is_done(
    workspace: Workspace, file: Path, bakery: Bakery, text: str, told: str
) -> None:
    file.write_text(text)
    before = state(workspace)
    done = workspace.call(*WORDS, str(file))
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert "done" not in done.stderr
    assert (bakery.baked, state(workspace)) == ([], before)
    file.write_text("{}")
    assert workspace.call(*WORDS, str(file)).returncode == 0, "the name is not taken by what was refused"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("PATH", "--env PATH: PATH says where things are on this machine, so no server is given it; leave it out"),
        ("https_proxy", "--env https_proxy: https_proxy is the sandbox's own to set, so no server is given it"),
        ("CLONED_TOOL", "CLONED_TOOL is the sandbox's own to set"),
        ("KEY=hunter2", "the name of a variable alone"),
    ],
)
def test_a_variable_that_no_server_is_given_is_refused_before_anything_is_done(
    workspace: Workspace, file: Path, bakery: Bakery, name: str, told: str
) -> None:
    file.write_text("{}")
    before = state(workspace)
    done = workspace.call(*WORDS[:-1], "--env", name, "--write", str(file))
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert (bakery.baked, state(workspace)) == ([], before)


def test_a_file_below_what_is_no_directory_is_refused_before_anything_is_done(
    workspace: Workspace, file: Path, bakery: Bakery
) -> None:
    file.write_text("{}")
    before = state(workspace)
    done = workspace.call(*WORDS, str(file / "mcp.json"))
    assert (done.returncode, "is no directory that this user may write to" in done.stderr) == (2, True), done.stderr
    assert (bakery.baked, state(workspace)) == ([], before)


def test_a_file_that_cannot_be_written_at_the_end_leaves_no_server_behind(
    workspace: Workspace, file: Path, bakery: Bakery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: ClientFile) -> None:
        raise StoreError("no space left")

    file.write_text("{}")
    with monkeypatch.context() as broken:
        broken.setattr(ClientFile, "save", full)
        done = workspace.call(*WORDS, str(file))
    assert (done.returncode, "no space left" in done.stderr, "done" in done.stderr) == (2, True, False), done.stderr
    assert workspace.json("mcp", "list") == []
    assert workspace.call(*WORDS, str(file)).returncode == 0
    assert len(bakery.baked) == 2
    assert workspace.call("mcp", "unwrap", str(file)).returncode == 0
    assert file.read_text() == "{}"


@pytest.mark.parametrize(("env", "told"), [((), True), (("--env", "MEMORY_FILE_PATH"), False)])
def test_one_that_would_write_beside_its_program_is_told_of_before_it_is_baked(
    workspace: Workspace, file: Path, bakery: Bakery, env: tuple[str, ...], *, told: bool
) -> None:
    package = "@modelcontextprotocol/server-memory@2026.8.31"
    done = workspace.call("mcp", "add", "memory", "--npm", package, *env, "--write", str(file))
    assert (done.returncode, bakery.baked) == (0, [package])
    assert ("by `--env MEMORY_FILE_PATH`" in done.stderr) == told
