"""The examples of docs/mcp.md are what the program reads; the servers themselves run in tests/runner/mcp."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from cloned_proxy.runner.mcp import jsonc, toml
from cloned_proxy.runner.mcp.registry import ServerRegistry
from cloned_proxy.store.workspaces.workspace import Workspace as Place

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]


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
    assert list(ServerRegistry(place).servers) == list(yaml.safe_load(blocks["yaml"])["servers"])
    assert os.listdir(tmp_path) == ["mcp.yaml"]  # noqa: PTH208  a name, and nothing else
