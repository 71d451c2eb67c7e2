"""The commands that people and scripts call all day, read without Typer: its import takes longer than their work.

Only plain lines of options and arguments that stand in COMMANDS are taken here. Everything else (another option,
`--help`, a mistake) is left to Typer, which has the same options: a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions


class Quick(NamedTuple):
    """The parameter that each option sets; `argument` names the one argument, "" where there is none."""

    run: Callable[..., int | None]
    valued: Mapping[str, str]
    flags: Mapping[str, str]
    argument: str = ""
    repeated: Mapping[str, str] = {}
    """Options that may be given again; their parameter is the list of what was given."""
    rest: str = ""
    """The parameter for the words behind `--`, which must be there then."""
    unless: str = ""
    """A variable of the environment that stands for an option: where it is set, Typer reads the line."""


def _list(**given: Any) -> None:
    from cloned_proxy.cli.commands.rules.rule_list import print_rules

    print_rules(**given)


def _log(**given: Any) -> None:
    from cloned_proxy.cli.commands.log.log_reader import print_log

    print_log(**given)


def _explain(**given: Any) -> int:
    from cloned_proxy.cli.commands.rules.explain_verdict import print_verdict

    return print_verdict(**given)


def _mcp_run(**given: Any) -> int:
    from cloned_proxy.cli.commands.mcp.run import run_server

    return run_server(given["name"], workspace=given.get("workspace"), policy=given.get("policy"))


def _llm_up(**given: Any) -> None:
    from cloned_proxy.cli.commands.model.llm_server import UpOptions, bring_up

    bring_up(UpOptions(**given))


def _exec(**given: Any) -> int:
    from cloned_proxy.cli.commands.sandbox.exec_run import run_command

    return run_command(_exec_options(given))


def _exec_options(given: Mapping[str, Any]) -> ExecOptions:
    from cloned_proxy.cli.commands.sandbox.exec_options import (
        EnvironmentOptions,
        ExecOptions,
        FileOptions,
        LimitOptions,
    )

    return ExecOptions(
        tool=given["tool"],
        command=tuple(given["command"]),
        image=given.get("image"),
        files=FileOptions(mounts=tuple(given.get("mount", ())), home=given.get("home", False)),
        environment=EnvironmentOptions(variables=tuple(given.get("env", ()))),
        limits=LimitOptions(memory=given.get("memory")),
        policy=given.get("policy"),
        workspace=given.get("workspace"),
    )


_PLACES: Final = {"--workspace": "workspace", "--policy": "policy"}
_PATHS: Final = {*_PLACES, "--models"}
_JSON: Final = {"--json": "as_json"}
_TOOL: Final = {"--tool": "tool", "--workspace": "workspace"}
COMMANDS: Final[Mapping[str, Quick]] = {
    "list": Quick(_list, {**_TOOL, **_PLACES, "--stale": "stale"}, _JSON),
    "log": Quick(
        _log,
        {**_TOOL, "--since": "since"},
        {**_JSON, "--denied": "denied", "-f": "follow", "--follow": "follow"},
    ),
    "explain": Quick(
        _explain, {**_TOOL, **_PLACES, "--method": "method"}, {**_JSON, "--resolve": "resolve"}, argument="what"
    ),
    "exec": Quick(
        _exec,
        {**_PLACES, "--image": "image", "--memory": "memory"},
        {"--home": "home", "-i": "interactive", "--interactive": "interactive"},
        argument="tool",
        repeated={"--env": "env", "--mount": "mount"},
        rest="command",
        unless="CLONED_SANDBOX_NETWORK",
    ),
    "mcp run": Quick(_mcp_run, _PLACES, {}, argument="name", unless="CLONED_POLICY"),
    "llm up": Quick(_llm_up, {"--workspace": "workspace", "--models": "models", "--image": "image"}, {}),
}


def quick_call(words: Sequence[str]) -> Callable[[], int | None] | None:
    """The call that a command line stands for, which returns the exit code; None where Typer is to read it."""
    if (found := _command(words)) is None:
        return None
    command, given = found
    return lambda: command.run(**given)


def quick_exec(words: Sequence[str]) -> ExecOptions | None:
    """The options of a line that is an `exec`; None where Typer is to read it."""
    found = _command(words)
    return _exec_options(found[1]) if found is not None and found[0] is COMMANDS["exec"] else None


def _command(words: Sequence[str]) -> tuple[Quick, dict[str, Any]] | None:
    name = next((name for name in COMMANDS if (named := name.split()) == list(words[: len(named)])), None)
    if name is None or os.environ.get((command := COMMANDS[name]).unless):
        return None
    given: dict[str, Any] = {}
    words = words[len(name.split()) :]
    if command.rest:
        if "--" not in words[:-1]:
            return None
        at = words.index("--")
        words, given[command.rest] = words[:at], words[at + 1 :]
    if not _read(command, words, given) or (command.argument and command.argument not in given):
        return None
    return command, given


def _read(command: Quick, words: Sequence[str], given: dict[str, Any]) -> bool:
    """Whether every word is one that is known here."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word in command.flags:
            given[command.flags[word]] = True
        elif name in command.valued or name in command.repeated:
            value = value if equals else next(rest, "")
            if not value or value.startswith("-"):
                return False
            if name in command.repeated:
                given.setdefault(command.repeated[name], []).append(value)
            else:
                given[command.valued[name]] = Path(value) if name in _PATHS else value
        elif command.argument and command.argument not in given and not word.startswith("-") and word:
            given[command.argument] = word
        else:
            return False
    return True
