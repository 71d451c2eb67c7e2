"""What a server will not be able to write is told when it is wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.runner.mcp.own_files import about_its_files
from cloned_proxy.runner.mcp.packages import parse_package

MEMORY = parse_package("npm", "@modelcontextprotocol/server-memory@2026.8.31")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, ["put MEMORY_FILE_PATH with a path such as /home/tool/memory.jsonl into its `env`"]),
        ({"MEMORY_FILE_PATH": ""}, ["put MEMORY_FILE_PATH"]),
        ({"MEMORY_FILE_PATH": "/home/tool/memory.jsonl"}, []),
        ({"MEMORY_FILE_PATH": "PROJECT/memory.jsonl"}, ["the path in MEMORY_FILE_PATH is read-only to it"]),
        ({"MEMORY_FILE_PATH": "/var/lib/memory.jsonl"}, ["the path in MEMORY_FILE_PATH is not shown to it"]),
    ],
)
def test_the_memory_server_wants_a_file_that_it_can_write(tmp_path: Path, env: dict[str, str], said: list[str]) -> None:
    given = {name: value.replace("PROJECT", str(tmp_path)) for name, value in env.items()}
    lines = list(about_its_files(MEMORY, given, tmp_path))
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


@pytest.mark.parametrize("value", ["s3cret", "/nowhere/that/is", "/v1", "/usr/share/zoneinfo", "/dev/null", 3, ""])
def test_what_names_no_file_of_this_machine_is_not_remarked_upon(tmp_path: Path, value: object) -> None:
    assert list(about_its_files(None, {"SETTING": value}, tmp_path)) == []
