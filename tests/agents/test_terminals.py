"""`shell -- claude`, `codex` and `gemini`: the real programs at a terminal in the sandbox, their model a stand-in.

They are 0.8 GB: `make test-agents` fetches them and names their directory in AGENT_CLIS. In any other run they are
skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.agents.chat_stand_in import ANSWER, chat_stand_in
from tests.runner.at_terminal import AtTerminal
from tests.runner.conftest import engine as engine  # noqa: PLC0414  fixtures of these tests, too
from tests.runner.conftest import images as images  # noqa: PLC0414
from tests.runner.conftest import leftovers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.docker,
    pytest.mark.timeout(240, func_only=True),  # not the engine and its images
    pytest.mark.skipif("AGENT_CLIS" not in os.environ, reason="AGENT_CLIS names no directory of agents"),
]
SOMEBODY = 4711
CALLS = {"claude": "/v1/messages", "codex": "/v1/responses", "gemini": "/v1beta/models/gemini-2.5-flash:"}
KEY = "placeholder-of-twenty-letters"
SETTINGS = {
    # What each asks at its first start, answered: Claude Code would sign in first, and reach its own API for that.
    "claude": (".claude.json", {"hasCompletedOnboarding": True, "customApiKeyResponses": {"approved": [KEY[-20:]]}}),
    "codex": (".codex/settings.json", {}),
    "gemini": (".gemini/settings.json", {"security": {"auth": {"selectedType": "gemini-api-key"}}}),
}
COMMANDS = {
    "claude": ["claude"],
    "codex": ["codex", "--dangerously-bypass-approvals-and-sandbox", "-c", 'model_provider="s"', "-c",
              'model_providers.s={name="s",wire_api="responses",base_url="URL/v1",env_key="OPENAI_API_KEY"}'],
    "gemini": ["gemini", "-m", "gemini-2.5-flash"],
}  # fmt: skip


@pytest.fixture
def project(images: Engine, tmp_path: Path) -> Iterator[Path]:
    project = tmp_path / "project"
    project.joinpath(".cloned").mkdir(parents=True, mode=0o700)
    subprocess.run(["git", "init", "--quiet", project], check=True)
    if os.geteuid() == 0:
        for path in (project, *project.joinpath(".git").rglob("*"), project / ".git"):
            shutil.chown(path, SOMEBODY, SOMEBODY)
    yield project
    assert leftovers(images, project / ".cloned") == []


def words(agent: str, port: int) -> list[str]:
    """The agent's rule is its model's address alone, in plain HTTP to the stand-in."""
    url = f"http://127.0.0.1:{port}"
    variables = {
        "PATH": "/mnt/agents/node_modules/.bin:/usr/local/bin:/usr/bin:/bin",
        "ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url, "OPENAI_API_KEY": KEY,
        "GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }  # fmt: skip
    file, settings = SETTINGS[agent]
    prepare = f"mkdir -p ~/{Path(file).parent}; echo '{json.dumps(settings)}' > ~/{file}; exec \"$@\""
    given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    command = [word.replace("URL", url) if word.startswith("model_providers") else word for word in COMMANDS[agent]]
    shell = ["shell", "--mount", f"{os.environ['AGENT_CLIS']}:/mnt/agents", *given, f"{agent}@v1"]
    return [*shell, "--", "sh", "-c", prepare, "sh", *command]


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini"])
def test_an_agent_lives_at_the_terminal(project: Path, agent: str) -> None:
    with chat_stand_in() as (port, asked):
        rule = f"{{host: 127.0.0.1, ports: [{port}], protocols: [tcp]}}"
        policy = f"version: 1\ntools: {{{agent}@v1: {{allow: [{rule}]}}}}\n"
        project.joinpath(".cloned", "policy.yaml").write_text(policy)
        with AtTerminal(words(agent, port), cwd=project, rows=40, columns=110, env={"COLORTERM": "truecolor"}) as it:
            it.see(f"the rules of {agent}@v1 apply; it may reach 127.0.0.1\r\n")
            if agent == "gemini":
                it.see("shortcuts")
            else:
                it.see("[Tt]rust")
                it.insist("\r", "shortcuts")
            it.type("hello")
            it.see("hello")
            it.insist("\r", ANSWER)
            assert any(path.startswith(CALLS[agent]) for path in asked), asked
            if agent == "claude":  # it stops itself: nobody could continue it, so it goes on
                it.type("\x1a")
                it.see("suspended")
                it.see("shortcuts")
            it.resize(20, 70)
            it.type("/quit")
            it.see("/quit")
            it.insist("\r", "cloned-proxy: refused ")  # their telemetry and update checks
            assert it.ends() == 0
            assert it.modes() == it.before
