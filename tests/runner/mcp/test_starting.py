"""What `mcp run` knows of a server comes from the cache for a list that was read before, and for no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.runner.mcp import registry
from cloned_proxy.runner.mcp.starting import start_of
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace

TEXT = """\
engine: unix:///e.sock
servers:
  a: {tool: a@v1, command: npx, args: [-y, x], env: [KEY], mounts: ['/m:/m'], image: 'i:1', memory: 1g, cpus: 0.5}
  b: {tool: b@v1, command: cat, home: false, project: none}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workspace = Workspace(tmp_path / ".cloned")
    workspace.create()
    (workspace.root / "mcp.yaml").write_text(TEXT)
    return workspace


def test_a_list_that_was_read_before_says_the_same_of_each_server(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {name: start_of(place, name) for name in ("a", "b")}
    monkeypatch.setattr(registry, "ServerRegistry", lambda _place: pytest.fail("read again"))
    for name, start in read.items():
        known = start_of(place, name)
        assert known.engine == start.engine == "unix:///e.sock"
        assert vars(known.server) == start.server.model_dump()


def test_an_edit_acts_at_the_next_start_and_a_mistake_is_said_each_time(place: Workspace) -> None:
    assert [start_of(place, "b").server.command for _ in range(2)] == ["cat", "cat"]
    path = place.root / "mcp.yaml"
    path.write_text(TEXT.replace("cat", "tac"))
    assert start_of(place, "b").server.command == "tac"
    path.write_text(TEXT.replace("home:", "hone:"))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"mcp\.yaml:4: servers\.b\.hone"):
            start_of(place, "b")
    path.unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match="no MCP server 'b' here"):
            start_of(place, "b")
