"""The program as a whole: fast help, streams, exit codes, colour, completion."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.cli.program import PROGRAM, Workspace, policy_text

HEAVY = (
    "pydantic",
    "mitmproxy",
    "yaml",
    "ruamel",
    "structlog",
    "prometheus_client",
    "watchdog",
    "sqlite3",
    "asyncio",
    "rich",
)
COMMANDS = (
    "serve",
    "allow",
    "deny",
    "remove",
    "list",
    "explain",
    "log",
    "audit",
    "policy",
    "proxy",
    "token",
    "doctor",
    "ca",
)


def imported_by(*words: str) -> set[str]:
    """The modules that `cloned-proxy WORDS` imports, by their first name, and by their full one."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", PROGRAM, *words], capture_output=True, text=True, timeout=90, check=True
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "cloned_proxy.__main__" in names, "the list of imports was not read"
    return names | {name.split(".")[0] for name in names}


def test_help_imports_nothing_heavy() -> None:
    imported = imported_by("--help")
    assert imported & set(HEAVY) == set()
    assert "typer" in imported


def test_the_version_is_told_before_the_commands_are_imported() -> None:
    assert imported_by("--version") & {*HEAVY, "typer", "importlib.metadata", "cloned_proxy.cli.start.app"} == set()


def test_help_names_every_command(workspace: Workspace) -> None:
    done = workspace.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE)
    assert set(COMMANDS) <= set(listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(workspace: Workspace, command: str) -> None:
    """From the interpreter's start on; most other tests fork, see `forkserver`, and a fork says the same."""
    done = workspace.started(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"cloned-proxy {command}" in done.stdout
    forked = workspace.run(command, "--help")
    assert (forked.returncode, forked.stdout, forked.stderr) == (0, done.stdout, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("allow",),
        ("allow", "example.com", "--for", "soon"),
        ("allow", "example.com", "--uses", "0"),
        ("allow", "*.com"),
        ("allow", "https://example.com/"),
        ("allow", "example.com:0"),
        ("deny", "example.com:443"),
        ("explain",),
        ("token", "demo.tool@v1", "--ttl", "0s"),
        ("policy", "check", "missing.yaml"),
        ("policy", "import", "missing.yaml"),
        ("log", "--since", "yesterday"),
        ("proxy", "--set", "not a url"),
        ("ca", "nonsense"),
    ],
    ids=" ".join,
)
def test_bad_usage_and_bad_input_exit_2_with_a_message_and_no_data(
    workspace: Workspace, arguments: tuple[str, ...]
) -> None:
    workspace.write_policy(policy_text())
    done = workspace.run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("allow", "api.example.com", "--reason", "\udcff"),
        ("allow", "api.example.com", "--path=/\udcff/**"),
        ("deny", "\udcff.example.com"),
        ("remove", "api.example.com", "--reason", "\udcff"),
        ("list", "--tool", "\udcff"),
        ("approvals", "reject", "a-0123456789", "--reason", "\udcff"),
        ("pair", "--name", "\udcff"),
        ("log", "--workspace", "\udcff"),
        ("exec", "\udcff", "--", "true"),
    ],
    ids=lambda arguments: ascii(" ".join(arguments)),
)
def test_bytes_that_are_no_text_are_bad_usage_everywhere(workspace: Workspace, arguments: tuple[str, ...]) -> None:
    workspace.write_policy(policy_text())
    before = workspace.policy.read_bytes()
    done = workspace.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"cloned-proxy: argument \d, '.*\\xff.*', is not UTF-8; write it in UTF-8\n", done.stderr)
    assert workspace.policy.read_bytes() == before


def test_the_words_of_a_tools_own_command_may_be_any_bytes(workspace: Workspace) -> None:
    done = workspace.run("exec", "no tool", "--", "cat", "\udcff")
    assert (done.returncode, "UTF-8" in done.stderr) == (2, False), done.stderr
    assert "no tool" in done.stderr


def test_the_version_is_printed() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=90, check=True)
    assert re.fullmatch(r"cloned-proxy \d+\.\d+\.\d+\S*\n", done.stdout)


def test_completion_for_the_shell_is_offered(workspace: Workspace) -> None:
    done = workspace.run(env={"_CLONED_PROXY_COMPLETE": "source_bash"})
    assert done.returncode == 0
    assert "_CLONED_PROXY_COMPLETE" in done.stdout


def test_a_reader_that_goes_away_is_not_an_error_message(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=[f"host{number}.example" for number in range(2000)]))
    with subprocess.Popen(
        [PROGRAM, "list"], env=workspace.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(
    workspace: Workspace, environment: dict[str, str], *, coloured: bool
) -> None:
    workspace.write_policy(policy_text())
    ours, theirs = pty.openpty()
    try:
        env = workspace.environment | {"TERM": "xterm"} | environment
        subprocess.run([PROGRAM, "explain", "https://example.com/"], env=env, stdout=theirs, timeout=90, check=False)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("\x1b[" in shown) is coloured
