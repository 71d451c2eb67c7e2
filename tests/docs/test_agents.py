"""README's "With your agent": the three blocks do what they say, with the real program and real packages.

The whole agent is 245 MB, so its block is run to the end only where AGENT_CLIS is set, as in tests/agents; that `init`
ends with just these lines is looked at always.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cloned_proxy.cli.editing.agents import AGENTS
from cloned_proxy.runner.docker.engine import Engine
from demo.tour import marked
from tests.cli.conftest import workspace as workspace  # noqa: PLC0414  a fixture of these tests, too
from tests.cli.program import Workspace, policy_text
from tests.cli.pseudo_terminal import open_terminal, plain
from tests.net.clients import unavailable
from tests.runner.conftest import engine as engine  # noqa: PLC0414
from tests.runner.conftest import images as images  # noqa: PLC0414

pytestmark = pytest.mark.checkout
README = Path(__file__).resolve().parents[2] / "README.md"


def lines(name: str) -> list[str]:
    return [line.partition("  #")[0].rstrip() for line in marked(README.read_text(), name).splitlines()]


def project_of(workspace: Workspace) -> Path:
    """A directory without a workspace, where what a person types is typed."""
    workspace.environment.pop("CLONED_WORKSPACE", None)
    workspace.environment |= {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}
    return workspace.path.parent


def typed(workspace: Workspace, line: str, seconds: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=workspace.path.parent, env=workspace.environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=seconds,
    )  # fmt: skip


def test_init_ends_with_the_lines_of_the_first_block(workspace: Workspace) -> None:
    project_of(workspace)
    first, *others = lines("agent")
    done = typed(workspace, f"{first} --json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tools"] == {"claude@v1": ["claude-code"]}
    assert [line for line in told["next"] if line != "cloned-proxy serve"] == others
    assert set(AGENTS) == {"claude-code", "codex", "gemini-cli"}, "README names these"


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(400, func_only=True)
@pytest.mark.skipif("AGENT_CLIS" not in os.environ, reason="AGENT_CLIS names no directory of agents: 245 MB")
def test_the_first_block_opens_the_agent_in_a_terminal(images: Engine, workspace: Workspace) -> None:
    project = project_of(workspace)
    if os.geteuid() == 0:  # what an agent writes is its user's, and that is never root
        os.chown(project, 1000, 1000)
        project.chmod(0o755)
    *first, shell = lines("agent")
    for line in first:
        done = typed(workspace, line, seconds=300)
        assert done.returncode == 0, done.stderr
    screen, terminal = open_terminal()
    with subprocess.Popen(
        ["bash", "-c", f"{shell} --version"], cwd=workspace.path.parent, env=workspace.environment | {"TERM": "xterm"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = b""
        while b"(Claude Code)" not in shown:
            shown += os.read(screen, 65_536)
        assert process.wait(60) == 0
    os.close(screen)
    assert "2.1.197 (Claude Code)" in plain(shown.decode())


@pytest.mark.docker
@pytest.mark.timeout(300, func_only=True)
def test_the_second_block_wraps_a_server_that_answers(images: Engine, workspace: Workspace) -> None:
    client = project_of(workspace) / ".mcp.json"
    line = {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory@2026.8.31"]}
    written = json.dumps({"mcpServers": {"memory": line}})
    client.write_text(written)
    assert typed(workspace, "cloned-proxy init --yes --run my.tool@v1 --preset none --sandbox").returncode == 0
    wrap, check, unwrap = lines("mcp")
    wrapped = typed(workspace, wrap, seconds=280)
    if wrapped.returncode == 1 and "npm could not fetch" in wrapped.stderr:
        unavailable(f"no packages of npm: {wrapped.stderr}")
    assert wrapped.returncode == 0, wrapped.stderr
    assert json.loads(client.read_text())["mcpServers"]["memory"]["args"][:3] == ["mcp", "run", "memory"]
    checked = typed(workspace, check)
    assert checked.returncode == 0, checked
    assert checked.stdout.startswith("ok    memory: ")
    assert "denied  nothing" in checked.stdout
    assert typed(workspace, unwrap).returncode == 0
    assert client.read_text() == written


def test_the_third_block_leads_the_agents_own_sandbox_here(workspace: Workspace, tmp_path: Path) -> None:
    serve, setup = lines("setup")
    assert serve == "cloned-proxy serve"
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    workspace.environment["HOME"] = str(tmp_path)
    done = typed(workspace, setup)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / ".claude" / "settings.json").read_text())
    assert settings["sandbox"]["network"]["httpProxyPort"] == serving.port
