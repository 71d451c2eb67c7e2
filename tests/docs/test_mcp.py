"""The block of README for MCP servers, run as it stands; the servers themselves run in tests/runner/mcp."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cloned_proxy.runner.mcp import jsonc, toml
from cloned_proxy.runner.mcp.registry import Registry
from cloned_proxy.store.workspace import Workspace as Place
from demo.tour import marked, steps
from tests.cli.program import Workspace

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
FILE = '{"mcpServers": {"memory": {"command": "mcp-server-memory"}}}\n'


def test_the_block_of_the_readme_wraps_a_file_and_puts_it_back(workspace: Workspace) -> None:
    assert workspace.call("init", "--yes").returncode == 0
    file = workspace.path.parent / ".mcp.json"
    file.write_text(FILE)
    commands = [step.command for step in steps(marked((ROOT / "README.md").read_text(), "mcp"))]
    assert len(commands) == 5
    for command in commands:
        if "mcp check" in command:  # needs an engine
            assert "mcp run" not in FILE
            assert '"mcp", "run", "memory"' in file.read_text()
            continue
        done = subprocess.run(
            command, shell=True, cwd=workspace.path.parent, env=workspace.environment, capture_output=True, check=False,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert file.read_text() == FILE


def test_the_examples_of_the_page_are_what_is_read_and_written(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "mcp.md").read_text()
    blocks = dict.fromkeys(("json", "toml", "yaml"), "")
    for language, body in re.findall(r"^```(json|toml|yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        blocks[language] = body
        if language == "json":
            assert list(jsonc.read(body)) == ["mcpServers"]
    assert toml.read(blocks["toml"])["mcp_servers"]["time"]["args"][:3] == ["mcp", "run", "time"]
    place = Place(tmp_path)
    (tmp_path / "mcp.yaml").write_text(blocks["yaml"])
    assert list(Registry(place).servers) == list(yaml.safe_load(blocks["yaml"])["servers"])
    assert os.listdir(tmp_path) == ["mcp.yaml"]  # noqa: PTH208  a name, and nothing else
