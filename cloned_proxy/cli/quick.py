"""The commands that people and scripts call all day, read without Typer: its import takes longer than their work.

Only plain lines of options and arguments that stand in COMMANDS are taken here. Everything else (another option,
`--help`, a mistake) is left to Typer, which has the same options: a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple


class Quick(NamedTuple):
    """The parameter that each option sets; `argument` names the one argument, "" where there is none."""

    run: Callable[..., int | None]
    valued: Mapping[str, str]
    flags: Mapping[str, str]
    argument: str = ""


def _list(**given: Any) -> None:
    from cloned_proxy.cli.rule_list import print_rules

    print_rules(**given)


def _log(**given: Any) -> None:
    from cloned_proxy.cli.log_reader import print_log

    print_log(**given)


def _explain(**given: Any) -> int:
    from cloned_proxy.cli.verdict import print_verdict

    return print_verdict(**given)


_PLACES: Final = {"--workspace": "workspace", "--policy": "policy"}
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
}


def quick_call(words: Sequence[str]) -> Callable[[], int | None] | None:
    """The call that a command line stands for, which returns the exit code; None where Typer is to read it."""
    if not words or (command := COMMANDS.get(words[0])) is None:
        return None
    given: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if word in command.flags:
            given[command.flags[word]] = True
        elif name in command.valued:
            value = value if equals else next(rest, "")
            if not value or value.startswith("-"):
                return None
            given[command.valued[name]] = Path(value) if name in _PLACES else value
        elif command.argument and command.argument not in given and not word.startswith("-") and word:
            given[command.argument] = word
        else:
            return None
    if command.argument and command.argument not in given:
        return None
    return lambda: command.run(**given)
