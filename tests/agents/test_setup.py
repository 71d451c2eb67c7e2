"""`setup` with the real Claude Code, Codex and Gemini CLI, each told by a stand-in of its model to run `curl`.

They are 0.8 GB: `make test-agents` fetches them and names their directory in AGENT_CLIS. In any other run they are
skipped, in one line each. The sandboxes of the first two need bubblewrap and socat.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.model_stand_in import ModelStandIn
from tests.cli.conftest import workspace as workspace  # noqa: PLC0414  a fixture of these tests, too
from tests.cli.program import Workspace, eventually
from tests.net.clients import needed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.skipif("AGENT_CLIS" not in os.environ, reason="AGENT_CLIS names no directory of agents"),
]
ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    "curl -sS -m 8 http://plain.denied.example/; curl -sS -m 8 https://tls.denied.example/; "
    "curl -sS -m 3 --noproxy '*' http://127.0.0.1:{port}/round; echo over"
)
"""Two ways through the proxy, and one round it, to the stand-in itself."""


@pytest.fixture
def home(workspace: Workspace, tmp_path: Path) -> Path:
    found = tmp_path / "home"
    (found / "project").mkdir(parents=True)
    workspace.environment["HOME"] = str(found)
    return found


@pytest.fixture
def model() -> Iterator[ModelStandIn]:
    stand_in = ModelStandIn(COMMAND)
    yield stand_in
    stand_in.close()


def run(home: Path, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The agent in the project, to its end."""
    with started(home, words, environment) as agent:
        stdout, stderr = agent.communicate(timeout=100)
    return subprocess.CompletedProcess(words, agent.returncode, stdout, stderr)


@contextlib.contextmanager
def started(home: Path, words: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The agent in a namespace whose hosts file knows the names that Codex wants to look up; killed at the end."""
    bin_directory = Path(os.environ["AGENT_CLIS"]) / "node_modules" / ".bin"
    hosts = home / "hosts"
    hosts.write_text("127.0.0.1 localhost\n93.184.215.14 plain.denied.example tls.denied.example\n")
    script = f'mount --bind {hosts} /etc/hosts && cd {home}/project && exec "$@"'
    full = {"PATH": f"{bin_directory}:{os.environ['PATH']}", "HOME": str(home), **environment}
    agent = subprocess.Popen(
        [needed("unshare"), "--mount", "sh", "-c", script, "sh", *words],
        env=full, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield agent
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)  # what it started, too
        agent.communicate()


def asked(workspace: Workspace, *hosts: str) -> None:
    def all_there() -> bool:
        log = workspace.run("log", "--denied").stdout
        return all(host in log for host in hosts)

    eventually(all_there, what=f"calls to {', '.join(hosts)}")


def policy(model: ModelStandIn) -> str:
    return f"version: 1\nanonymous: global\nglobal: {{allow: [{{host: 127.0.0.1, ports: [{model.port}]}}]}}\n"


def test_claude_codes_sandbox_leads_to_the_proxy(workspace: Workspace, home: Path, model: ModelStandIn) -> None:
    needed("bwrap")
    needed("socat")
    workspace.write_policy(policy(model))
    workspace.serve()
    assert workspace.run("setup", "claude-code", "--write").returncode == 0
    words = ["claude", "-p", "run it", "--allowedTools", "Bash"]
    environment = {"ANTHROPIC_API_KEY": "placeholder", "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model.port}",
                   "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}  # fmt: skip
    done = run(home, words, environment)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done
    asked(workspace, "plain.denied.example:80", "tls.denied.example:443")
    assert model.rounds == 0
    assert "host_not_allowed" in model.results[0]
    assert workspace.run("setup", "claude-code", "--undo").returncode == 0


@pytest.fixture
def codex_home(workspace: Workspace) -> Iterator[Path]:
    """Codex puts no helpers of its sandbox below /tmp, where the other directories of a test are."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="codex-") as directory:
        workspace.environment["CODEX_HOME"] = directory
        yield Path(directory)


def test_codexs_sandbox_leads_to_the_proxy(
    workspace: Workspace, home: Path, model: ModelStandIn, codex_home: Path
) -> None:
    needed("bwrap")
    (codex_home / "config.toml").write_text(
        'model_provider = "stand_in"\n[model_providers.stand_in]\nname = "stand-in"\nwire_api = "responses"\n'
        f'base_url = "http://127.0.0.1:{model.port}/v1"\nenv_key = "OPENAI_API_KEY"\n'
    )
    workspace.write_policy(policy(model))
    workspace.serve()
    assert workspace.run("setup", "codex", "--write").returncode == 0
    words = ["codex", "exec", "--skip-git-repo-check", "-s", "workspace-write", "run it"]
    done = run(home, words, {"OPENAI_API_KEY": "placeholder", "CODEX_HOME": str(codex_home)})
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done
    asked(workspace, "plain.denied.example:80", "tls.denied.example:443")
    assert model.rounds == 0
    assert "chatgpt.com:443" in workspace.run("log").stdout, "Codex itself does not go through the proxy"
    assert workspace.run("setup", "codex", "--undo").returncode == 0


def test_gemini_cli_goes_through_the_proxy(workspace: Workspace, home: Path, model: ModelStandIn) -> None:
    settings = home / ".gemini" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    workspace.write_policy(policy(model))
    workspace.serve()
    assert workspace.run("setup", "gemini-cli", "--write").returncode == 0
    environment = {"GEMINI_API_KEY": "placeholder", "GEMINI_CLI_TRUST_WORKSPACE": "true"}
    with started(home, ["gemini", "-p", "hello"], environment):  # refused, it tries again for a minute
        asked(workspace, "CONNECT generativelanguage.googleapis.com:443")
    assert workspace.run("setup", "gemini-cli", "--undo").returncode == 0
