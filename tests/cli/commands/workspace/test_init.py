"""`init`: three questions at most, and then a policy that is in force as it was shown."""

from __future__ import annotations

import json
import os
import pty
import select
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.workspace.initial import Answers, Tool, write
from cloned_proxy.cli.editing.agents import AGENTS
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.store.workspaces.workspace import Workspace as Place
from tests.cli.program import PROGRAM, Workspace


@pytest.fixture
def nothing_installed(workspace: Workspace, tmp_path: Path) -> Workspace:
    """No agent on PATH, so that the default is the same on every machine."""
    (tmp_path / "bin").mkdir()
    workspace.environment["PATH"] = f"{PROGRAM.parent}:{tmp_path / 'bin'}"
    return workspace


def test_yes_writes_what_it_shows_and_git_sees_none_of_it(nothing_installed: Workspace) -> None:
    workspace = nothing_installed
    workspace.environment.pop("CLONED_WORKSPACE")
    done = workspace.call("init", "--yes")
    assert done.returncode == 0, done.stderr
    place = workspace.path.parent / ".cloned"
    assert (place / "policy.yaml").read_text() == done.stdout
    assert (place / ".gitignore").read_text().splitlines()[-1] == "*"
    assert "next: cloned-proxy serve\n" in done.stderr
    assert "cloned-proxy exec my.tool@v1 -- " in done.stderr
    assert workspace.call("policy", "check").returncode == 0
    (version,) = json.loads(workspace.call("policy", "history", "--json").stdout)
    assert version["summary"] == "init"


def test_an_agent_in_a_container_gets_an_image_that_has_it_and_a_terminal(workspace: Workspace) -> None:
    done = workspace.call("init", "--run", "claude-code", "--run", "own@v1", "--preset", "none", "--sandbox")
    package = AGENTS["claude-code"].package
    assert f"cloned-proxy image build --npm {package} --scripts --tool claude@v1\n" in done.stderr
    assert "then, in another terminal: cloned-proxy shell -- claude\n" in done.stderr
    assert "  or: cloned-proxy exec own@v1 -- CMD\n" in done.stderr


@pytest.mark.parametrize(
    ("run", "there", "told"),
    [
        ("own@v1", (), "once, some minutes: cloned-proxy image build"),
        ("own@v1", ("cloned-worker:latest",), None),
        ("codex", ("cloned-worker:latest",), "once, some minutes: cloned-proxy image build --npm "),
        ("codex", (AGENTS["codex"].image,), "once, a moment (the image is there): cloned-proxy image build --npm "),
    ],
)
def test_an_image_that_is_there_need_not_be_built(
    workspace: Workspace, run: str, there: tuple[str, ...], told: str | None
) -> None:
    command = AGENTS[run].command if run in AGENTS else "CMD"
    answers = Answers((Tool(f"{command}@v1", (), command),), (), sandbox=True)
    made = replace(write(answers, Place(workspace.path), None, dry_run=True), dry_run=False, images=there)
    lines = list(made.messages())
    once = [line for line in lines if line.startswith("once")]
    if told is None:
        assert (once, lines[1].startswith("next: ")) == ([], True)
    else:
        assert [line.startswith(in_this_shell(told)) for line in once] == [True], lines


@pytest.mark.skipif(os.geteuid() != 0, reason="about root alone")
@pytest.mark.parametrize("owner", [0, 1000])
def test_root_is_told_before_the_image_is_built_that_shell_wants_a_users_project(
    workspace: Workspace, owner: int
) -> None:
    os.chown(workspace.path.parent, owner, owner)
    done = workspace.call("init", "--run", "codex", "--preset", "none", "--sandbox")
    os.chown(workspace.path.parent, 0, 0)
    assert done.returncode == 0, done.stderr
    assert ("you are root" in done.stderr) == (owner == 0)


def test_the_commands_name_a_workspace_that_is_not_here(workspace: Workspace, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / ".cloned"
    words = ("init", "--run", "codex", "--preset", "none", "--sandbox", "--workspace", str(place), "--json")
    told = json.loads(workspace.call(*words).stdout)
    assert told["next"] == [
        f"cloned-proxy image build --npm {AGENTS['codex'].package} --tool codex@v1 --workspace {place}",
        f"cloned-proxy serve --workspace {place}",
        f"cloned-proxy shell --workspace {place} -- codex",
    ]


def test_options_answer_every_question(workspace: Workspace) -> None:
    words = ("--run", "claude-code", "--run", "own@v1", "--preset", "github-read", "--no-sandbox")
    done = workspace.call("init", *words, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tools"] == {"claude@v1": ["claude-code", "github-read"], "own@v1": ["github-read"]}
    assert told["next"][0].startswith("cloned-proxy serve")
    assert told["next"][1].startswith("export $(cloned-proxy token ")
    assert workspace.call("explain", "https://api.anthropic.com/", "--tool", "claude@v1").returncode == 0
    assert workspace.call("explain", "https://api.anthropic.com/", "--tool", "own@v1").returncode == 1


def test_an_agent_on_the_path_is_the_default(nothing_installed: Workspace, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "codex"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert json.loads(nothing_installed.call("init", "--yes", "--json").stdout)["tools"] == {"codex@v1": ["codex"]}


def test_a_policy_that_is_there_stays(workspace: Workspace) -> None:
    workspace.write_policy("version: 1\n")
    done = workspace.call("init", "--yes")
    assert done.returncode == 1
    assert "there is a policy already" in done.stderr
    assert workspace.policy.read_text() == "version: 1\n"


def test_one_that_comes_while_somebody_thinks_stays_too(workspace: Workspace) -> None:
    """The command has looked, asked, and finds a file when it comes to write."""
    workspace.write_policy("version: 1\n")
    answers = Answers((Tool("a@v1", (), "CMD"),), (), sandbox=True)
    with pytest.raises(Exception, match="there is a policy already"):
        write(answers, Place(workspace.path), None, dry_run=False)
    assert workspace.policy.read_text() == "version: 1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is no terminal to ask at"),
        (("--run", "codex"), "there is no terminal to ask at"),
        (("--yes", "--run", "no such"), "'no such' is not known here"),
        (("--yes", "--preset", "opnai"), "did you mean openai?"),
    ],
)
def test_bad_input_writes_nothing(workspace: Workspace, words: tuple[str, ...], said: str) -> None:
    done = workspace.call("init", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not workspace.path.exists()


def test_a_dry_run_writes_nothing(workspace: Workspace) -> None:
    done = workspace.call("init", "--yes", "--dry-run")
    assert done.returncode == 0
    assert "tools:\n" in done.stdout
    assert not workspace.path.exists()


def test_a_registry_that_cannot_be_derived_leaves_nothing(nothing_installed: Workspace) -> None:
    done = nothing_installed.call("init", "--yes", "--preset", "npm")
    assert done.returncode == 2
    assert "names no registry on this machine" in done.stderr
    assert not nothing_installed.path.exists()


def test_at_a_terminal_three_questions_and_a_wrong_answer_is_asked_again(nothing_installed: Workspace) -> None:
    workspace = nothing_installed
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(workspace.path.parent)
        os.execve(PROGRAM, ["cloned-proxy", "init"], workspace.environment)
    shown = ""
    for question, answer in (
        ("[my.tool@v1]:", "no/such"),
        ("is not known here", ""),
        ("[my.tool@v1]:", "codex, own@v1"),
        ("[none]:", "openai"),
        ("[Y/n]:", "n"),
    ):
        while question not in shown:
            assert select.select([terminal], [], [], 60)[0], shown
            shown += os.read(terminal, 4096).decode()
        shown = shown.partition(question)[2]
        if answer:
            os.write(terminal, f"{answer}\n".encode())
    while True:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # how Linux says that the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    os.close(terminal)
    assert "export $(cloned-proxy token" in shown
    text = workspace.policy.read_text()
    assert "  codex@v1:\n    use: [codex, openai]\n" in text
    assert "  own@v1:\n    use: [openai]\n" in text
