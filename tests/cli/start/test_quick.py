"""What is read without Typer says what Typer says, and waits for none of the heavy imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloned_proxy.cli.commands.mcp import run as mcp_run
from cloned_proxy.cli.commands.model import llm_server
from cloned_proxy.cli.commands.sandbox import exec_run
from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions
from cloned_proxy.cli.place.context import policy_in
from cloned_proxy.cli.start.app import app
from cloned_proxy.cli.start.quick import COMMANDS, quick_call
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.workspaces.workspace import Workspace as Place
from tests.cli.program import PROGRAM, TOOL, Workspace, policy_text
from tests.cli.start.test_help import COMMANDS as ALL
from tests.cli.start.test_program import HEAVY

READS = {
    "list": (),
    "log": (),
    "explain": ("https://a.example.com/",),
}


@pytest.fixture
def filled(workspace: Workspace) -> Workspace:
    workspace.write_policy(policy_text(allow=["a.example.com", "{host: b.example.com, ports: [8443]}"]))
    workspace.run("allow", "c.example.com", "--tool", TOOL)
    return workspace


@pytest.mark.parametrize("command", READS)
def test_a_read_imports_nothing_heavy(filled: Workspace, command: str) -> None:
    words: list[str | Path] = [PROGRAM, command, *READS[command]]
    assert subprocess.run(words, env=filled.environment, capture_output=True, timeout=90, check=False).returncode == 0
    done = subprocess.run(
        words,
        env=filled.environment | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "sqlite3" in imported, "the list of imports was not read"
    assert imported & ({*HEAVY, "typer", "idna", "httpx", "cryptography"} - {"sqlite3", "idna"}) == set()


STARTS = """
import sys
import cloned_proxy.cli.commands.{module} as module
from cloned_proxy.cli.start import quick
module.{last} = lambda *_: sys.exit(print(*sys.modules))
quick.quick_call(sys.argv[1:])()
"""


@pytest.mark.parametrize(
    ("words", "module", "last"),
    [
        (("mcp", "run", "s"), "mcp.run", "run_command"),
        (("llm", "up", "--image", "i:1"), "model.llm_server", "Engine.connect"),
    ],
)
def test_a_start_that_others_wait_for_imports_nothing_heavy(
    filled: Workspace, words: tuple[str, ...], module: str, last: str
) -> None:
    """Up to where it turns to the engine, once its settings were read before."""
    (filled.path / "mcp.yaml").write_text("servers: {s: {tool: s@v1, command: cat}}\n")
    (filled.path.parent / "models").mkdir()
    command = [sys.executable, "-c", STARTS.format(module=module, last=last), *words]

    def imported() -> set[str]:
        done = subprocess.run(command, env=filled.environment, capture_output=True, text=True, timeout=90, check=True)
        return {name for name in done.stdout.split() if "." not in name}

    assert "pydantic" in imported()
    assert imported() & {*HEAVY, "typer", "httpx", "cryptography"} == set()


LINES = (
    ("list",),
    ("list", "--json"),
    ("list", "--tool", TOOL, "--json"),
    ("list", f"--tool={TOOL}"),
    ("list", "--stale", "1d"),
    ("list", "--stale", "nonsense"),
    ("log", "--json", "--since", "1h"),
    ("log", "--denied", "--tool", TOOL),
    ("log", "--since=never"),
    ("explain", "https://a.example.com/"),
    ("explain", "https://other.example/", "--json"),
    ("explain", "--method", "POST", "--tool", TOOL, "https://c.example.com/x"),
    ("explain", "not a url"),
)


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_line_means_what_typer_makes_of_it(
    filled: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    for name, value in filled.environment.items():
        monkeypatch.setenv(name, value)
    call = quick_call(words)
    assert call is not None
    error: Any = None
    code: int | None = None
    try:
        code = call()
    except Exception as caught:  # noqa: BLE001  whatever it is, Typer's way must raise the same
        error = caught
    ours = capsys.readouterr()
    done = CliRunner().invoke(app, list(words), prog_name="cloned-proxy")
    assert ours.out == done.stdout
    if error is not None:
        assert (type(done.exception), str(done.exception)) == (type(error), str(error))
    else:
        assert (code or 0, ours.err) == (done.exit_code, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("serve",),
        ("list", "--help"),
        ("list", "extra"),
        ("list", "--tool"),
        ("list", "--tool", "--json"),
        ("list", "--tool", ""),
        ("list", "--too", TOOL),
        ("list", "--json=yes"),
        ("list", "--"),
        ("explain",),
        ("explain", "https://a.example/", "https://b.example/"),
        ("explain", ""),
        ("log", "-f=1"),
        ("log", "-fx"),
        ("exec", TOOL),
        ("exec", TOOL, "true"),
        ("exec", TOOL, "--"),
        ("exec", TOOL, "-it", "--", "true"),
        ("exec", TOOL, "--timeout", "5", "--", "true"),
        ("exec", "--", "true"),
        ("mcp",),
        ("mcp run", "s"),
        ("mcp", "run"),
        ("mcp", "run", "s", "t"),
        ("mcp", "run", "--", "s"),
        ("mcp", "check", "s"),
        ("llm", "up", "--engine", "ollama"),
        ("llm", "up", "x"),
    ],
    ids=" ".join,
)
def test_anything_else_is_left_to_typer(words: tuple[str, ...]) -> None:
    assert quick_call(words) is None


EXECS: tuple[tuple[str, ...], ...] = (
    ("exec", TOOL, "--", "sh", "-c", "exit 3", "--", "-x"),
    ("exec", "--env", "A=1", "--mount", "/a:/b", "--env=B", TOOL, "-i", "--", "true"),
    ("exec", "--workspace", "/w/.cloned", "--policy=/p", "--image", "i:1", "--memory", "1g", "--home", TOOL, "--", "x"),
)


@pytest.mark.parametrize("words", EXECS, ids=" ".join)
def test_a_command_for_the_sandbox_is_the_one_that_typer_reads(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    asked: list[ExecOptions] = []

    def remember(options: ExecOptions) -> int:
        asked.append(options)
        return 3

    monkeypatch.setattr(exec_run, "run_command", remember)
    call = quick_call(words)
    assert call is not None
    assert call() == 3
    assert CliRunner().invoke(app, list(words), prog_name="cloned-proxy").exit_code == 3
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    "words",
    [
        ("mcp", "run", "s"),
        ("mcp", "run", "--workspace", "/w/.cloned", "s", "--policy=p"),
        ("llm", "up"),
        ("llm", "up", "--models", "m", "--workspace=/w", "--image", "i:1"),
    ],
    ids=" ".join,
)
def test_a_start_is_the_one_that_typer_reads(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    asked: list[Any] = []

    def remember(*given: Any, **named: Any) -> int:
        asked.append((given, named))
        return 3

    monkeypatch.setattr(mcp_run, "run_server", remember)
    monkeypatch.setattr(llm_server, "bring_up", remember)
    call = quick_call(words)
    assert call is not None
    assert (call() or 0) == CliRunner().invoke(app, list(words), prog_name="cloned-proxy").exit_code
    assert asked[0] == asked[1]


def test_a_variable_that_stands_for_an_option_is_typers_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLONED_SANDBOX_NETWORK", "cloned_net")
    assert quick_call(EXECS[0]) is None
    assert quick_call(("mcp", "run", "s")) is not None
    monkeypatch.setenv("CLONED_POLICY", "policy.yaml")
    assert quick_call(("mcp", "run", "s")) is None


def test_the_options_are_those_of_the_commands() -> None:
    for name, command in COMMANDS.items():
        options = {option: param for param in ALL[name].params for option in param.opts}
        for option, field in (*command.valued.items(), *command.flags.items(), *command.repeated.items()):
            assert options[option].is_flag is (option in command.flags), (name, option)
            assert options[option].name == field, (name, option)
            assert options[option].multiple is (option in command.repeated), (name, option)
        arguments = [param.name for param in ALL[name].params if param.param_type_name == "argument"]
        assert arguments == [word for word in (command.argument, command.rest) if word], name
        variables = {param.envvar for param in ALL[name].params if getattr(param, "envvar", None)}
        assert variables <= {command.unless, "CLONED_WORKSPACE", "CLONED_POLICY"}, name


def test_the_tests_of_a_policy_that_is_known_are_run_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that ends breaks an expectation without a change of the file."""
    workspace.write_policy(
        "version: 1\nanonymous: global\nglobal: {allow: [{host: a.example, expires: 2126-12-01T00:00:00Z}]}\n"
        "tests: [{allow: ['https://a.example/']}]\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", workspace.environment["XDG_CACHE_HOME"])
    place = Place(workspace.path)
    assert policy_in(place, None)[1].rules == policy_in(place, None)[1].rules
    monkeypatch.setattr(time, "time", lambda: 5_000_000_000.0)
    with pytest.raises(PolicyError, match="should be allowed"):
        policy_in(place, None)


def test_ctrl_c_ends_a_log_that_is_followed_without_a_word(filled: Workspace) -> None:
    with subprocess.Popen(
        [PROGRAM, "log", "-f", "--json"],
        env=filled.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.send_signal(2)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
