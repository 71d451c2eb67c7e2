"""What `shell` makes of the words that somebody typed, and what it says first."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions
from cloned_proxy.cli.commands.sandbox.shell_session import rule_lines, tool_of
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.cli.start.app import app
from cloned_proxy.store.policyfile.policy_file import policy_from_bytes

ROWS: list[tuple[str, list[str], str, tuple[str, ...]]] = [
    ("nothing", [], "shell@v1", ()),
    ("an agent", ["--", "claude"], "claude@v1", ("claude",)),
    ("a path and its words", ["--", "./bin/run.sh", "--", "-x"], "run.sh@v1", ("./bin/run.sh", "--", "-x")),
    ("a shell", ["--", "bash", "-l"], "shell@v1", ("bash", "-l")),
    ("a tool", ["my.tool@v1"], "my.tool@v1", ()),
    ("a tool and its command", ["my.tool@v1", "--", "vim"], "my.tool@v1", ("vim",)),
    (
        "options in between",
        ["--memory", "2g", "my.tool@v1", "--", "vim", "--memory"],
        "my.tool@v1",
        ("vim", "--memory"),
    ),
]


@pytest.mark.parametrize(("words", "tool", "command"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_words(words: list[str], tool: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ExecOptions] = []

    def run(options: ExecOptions, **_: object) -> int:
        asked.append(options)
        return 7

    monkeypatch.setattr("cloned_proxy.cli.commands.sandbox.exec_run.run_command", run)
    assert CliRunner().invoke(app, ["shell", *words]).exit_code == 7
    assert asked[0].tool == tool
    assert asked[0].terminal.tty
    assert (asked[0].files.project, asked[0].files.home, asked[0].files.user) == ("rw", True, "me")
    assert asked[0].command == command or (not command and asked[0].command[:2] == ("sh", "-c"))
    assert asked[0].limits.memory == ("2g" if "--memory" in words[:1] else "4g")


def test_its_usage_has_the_command_in_it() -> None:
    program: Any = typer.main.get_command(app)
    shell = program.commands["shell"]
    assert shell.collect_usage_pieces(typer.Context(shell)) == ["[OPTIONS]", "[TOOL]", "[-- CMD...]"]


def test_an_agent_in_the_place_of_the_tool_id_is_no_tool() -> None:
    with pytest.raises(CommandError, match="`cloned-proxy shell -- claude`"):
        tool_of("claude", ())
    assert tool_of("claude", ("bash",)) == "claude"


@pytest.mark.parametrize("name", ["/", "a b", "é", "x" * 200])
def test_a_command_whose_name_is_no_tool_id_needs_one(name: str) -> None:
    if name == "/":
        assert tool_of(None, (name,)) == "shell@v1"
        return
    with pytest.raises(CommandError, match=r"shell my\.tool@v1 -- "):
        tool_of(None, (name,))


POLICY = """\
version: 1
global: {allow: [example.com]}
tools:
  claude@v1: {allow: [api.anthropic.com, claude.ai, a.example, b.example]}
  alone@v1: {inherit_global: false}
  free@v1: {mode: report}
"""
LINES: list[tuple[str, str, list[str]]] = [
    ("claude@v1", "claude",
     ["the rules of claude@v1 apply; it may reach api.anthropic.com, claude.ai, a.example and 2 more"]),
    ("codex@v1", "codex",
     ["the rules of codex@v1 apply; it may reach example.com",
      "it has no rule of its own; in another terminal: `cloned-proxy allow --preset codex --tool codex@v1`"]),
    ("alone@v1", "/bin/vim",
     ["the rules of alone@v1 apply; it may reach nothing",
      "it has no rule of its own; in another terminal: `cloned-proxy allow HOST --tool alone@v1`"]),
    ("free@v1", "vim", ["the rules of free@v1 apply, in report mode: everything passes, and is recorded"]),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "program", "lines"), LINES)
def test_it_says_whose_rules_apply_and_how_to_make_some(tool: str, program: str, lines: list[str]) -> None:
    policy = policy_from_bytes(POLICY.encode(), source="policy.yaml", now=0)
    assert rule_lines(policy, tool, program) == lines
