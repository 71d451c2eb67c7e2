"""A project whose MCP servers are wrapped, in an image that has the real ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.cli import forkserver
from tests.cli.program import eventually
from tests.runner.conftest import leftovers, start_serving
from tests.runner.mcp.real_servers import IMAGE, RealServers, real_servers

SERVERS: dict[str, Any] = {
    "everything": {"command": "mcp-server-everything"},
    "memory": {"command": "mcp-server-memory", "env": {"MEMORY_FILE_PATH": "/home/tool/memory.jsonl"}},
    "time": {"command": "python3", "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"]},
    "fetch": {"command": "python3", "args": ["-m", "mcp_server_fetch", "--allow-private-ips"]},
    "gate-inside": {"command": "python3", "args": ["/opt/cloned/cloned_gate.py"]},
    "script": {"command": "sh", "args": ["-c", "${SCRIPT}"], "env": {"SCRIPT": "cat"}},
}


@dataclass
class Project:
    """A directory with a wrapped `.mcp.json` and its workspace."""

    place: Path
    engine: Engine
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def workspace(self) -> Path:
        return self.place / ".cloned"

    def entry(self, name: str) -> dict[str, Any]:
        """What a client reads of one server."""
        found: dict[str, Any] = json.loads((self.place / ".mcp.json").read_text())["mcpServers"][name]
        return found

    def words(self, name: str) -> list[str]:
        entry = self.entry(name)
        return [entry["command"], *entry["args"]]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(forkserver.PROGRAM), *words, "--workspace", str(self.workspace)]
        return forkserver.run(command, env=os.environ, cwd=Path.cwd())

    def left(self) -> list[str]:
        return leftovers(self.engine, self.workspace)


def make_project(place: Path, engine: Engine, servers: dict[str, Any]) -> Project:
    project = Project(place, engine)
    project.workspace.mkdir(parents=True, mode=0o700)
    (project.workspace / "config.yaml").write_text(f"sandbox: {{image: '{IMAGE}'}}\n")
    (place / ".mcp.json").write_text(json.dumps({"mcpServers": servers}, indent=2))
    done = project.call("mcp", "wrap", str(place / ".mcp.json"))
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="session")
def servers(images: Engine) -> RealServers:
    return real_servers(images)


@pytest.fixture(scope="module")
def module_project(servers: RealServers, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = make_project(tmp_path_factory.mktemp("mcp") / "code", engine, SERVERS)
    serving = start_serving(project.workspace)
    yield project
    serving.stop()


@pytest.fixture
def project(module_project: Project) -> Iterator[Project]:
    """The module's project; a test fails when its servers leave anything for good: some clients kill theirs."""
    yield module_project
    eventually(lambda: module_project.left() == [], 60, "the end of what the servers had")
