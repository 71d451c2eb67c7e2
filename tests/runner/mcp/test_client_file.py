"""A new server in a client's file: written where the file has its servers, and taken back byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.runner.mcp import jsonc, toml
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.snippets import snippets
from cloned_proxy.runner.mcp.wrapping import ServerStarter
from cloned_proxy.store.files.errors import ConflictError, StoreError

STARTER = ServerStarter(("/opt/bin/cloned-proxy",), Path("/code/.cloned"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{}"),
        ("a.json", "{ // nothing yet\n}\n"),
        ("a.toml", "# nothing yet\n"),
        ("a.json", '{"mcpServers": {}}'),
        ("a.json", '{\n  "mcpServers": {\n    "one": {"command": "a"}, // first\n  }\n}\n'),
        ("mcp.json", '{"inputs": [], "servers": {"one": {"command": "a"}}}'),
        ("a.toml", 'x = 1\n\n[mcp_servers.one]\ncommand = "a"\n'),
        ("a.toml", 'x = 1\n\n[mcp_servers]\none = {command = "a"}\n'),
    ],
)
def test_an_entry_is_added_and_taken_back(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    file = ClientFile.load(path)
    place = (*file.section(), "new one")
    entry = {"command": "/opt/x", "args": ["mcp", "run"], "env": {"KEY": ""}}
    file.add_server("new one", entry)
    assert "+" in file.diff()
    assert file.document_at(place) == entry
    assert [each.name for each in file.entries()][-1:] == ["new one"] or "one" in text
    assert file.take_back(file.changes)
    assert file.text == text


def test_a_file_without_a_place_for_servers_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"name": "a package"}')
    with pytest.raises(StoreError, match="write an empty mcpServers into it first"):
        ClientFile.load(path).section()


@pytest.mark.parametrize(
    ("name", "section"),
    [
        (".mcp.json", "mcpServers"),
        (".cursor/mcp.json", "mcpServers"),
        (".vscode/mcp.json", "servers"),
        (".codex/config.toml", "mcp_servers"),
    ],
)
def test_a_file_that_is_not_there_yet_is_made_as_its_client_reads_it(tmp_path: Path, name: str, section: str) -> None:
    file = ClientFile.load(tmp_path / name, create=True)
    file.check_writable()
    file.add_server("one", {"command": "a"})
    file.save()
    assert ClientFile.load(tmp_path / name).document() == {section: {"one": {"command": "a"}}}
    with pytest.raises(ConflictError, match="was made meanwhile"):
        file.save()


def test_the_snippets_are_what_clients_read() -> None:
    claude, code, codex = (text for _, text in snippets("files 1", STARTER, ["KEY"]))
    entry = {
        "command": "/opt/bin/cloned-proxy", "args": ["mcp", "run", "files 1", "--workspace", "/code/.cloned"],
    }  # fmt: skip
    assert jsonc.read(claude) == {"mcpServers": {"files 1": {**entry, "env": {"KEY": ""}}}}
    assert list(jsonc.read(code)) == ["servers"]
    assert toml.read(codex) == {"mcp_servers": {"files 1": {**entry, "env_vars": ["KEY"]}}}
