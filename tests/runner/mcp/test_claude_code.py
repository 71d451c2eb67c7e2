"""Real Claude Code on the host with a wrapped `.mcp.json`; a stand-in of its model's API on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runner.mcp.conftest import Project
from tests.runner.mcp.model_stand_in import ModelStandIn
from tests.runner.mcp.real_servers import RealServers, npm_install

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600, func_only=True)]

LOCK = Path(__file__).with_name("claude")


@pytest.fixture(scope="module")
def claude(servers: RealServers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, 380 MB, fetched for these tests and not kept. Without a registry: a failure in CI, else a skip."""
    folder = tmp_path_factory.mktemp("claude")
    try:
        npm_install(servers, LOCK, folder)
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has no Claude Code: {error}")
        pytest.skip(f"no Claude Code: {error}")
    (found,) = folder.glob("node_modules/@anthropic-ai/claude-code-linux-*/claude")
    return found


@pytest.mark.parametrize(
    "asks",
    [
        ("mcp__memory__read_graph", {}, "entities"),
        ("mcp__gate-inside__why_denied", {"url": "https://api.example.com/"}, "is refused: host_not_allowed"),
    ],
)
def test_claude_code_starts_a_wrapped_server_and_calls_it(
    claude: Path, project: Project, tmp_path: Path, asks: tuple[str, dict[str, str], str]
) -> None:
    tool, arguments, told = asks
    with ModelStandIn(tool, arguments).serving() as model:
        home = tmp_path / "home"
        home.mkdir()
        environment = {
            "HOME": str(home), "PATH": os.environ["PATH"], "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "of-the-stand-in", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1", "MCP_TIMEOUT": "120000", "IS_SANDBOX": "1", "ENABLE_TOOL_SEARCH": "false",
        }  # fmt: skip
        done = subprocess.run(
            [str(claude), "-p", "use the tool", "--mcp-config", str(project.place / ".mcp.json"),
             "--strict-mcp-config", "--allowedTools", f"{tool},Bash(sleep 1)"],
            cwd=project.place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400,
            check=False,
        )  # fmt: skip
        assert tool in model.tools, (done.stdout, done.stderr, sorted(model.tools))
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    shutil.rmtree(home, ignore_errors=True)
