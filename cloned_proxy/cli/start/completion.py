"""Completion of values (hosts, tools, rules, versions, …), answered before the commands are imported.

Typer's own completion knows the names of commands and options; it answers whatever this leaves to it. The protocol is
that of Typer's scripts, which `--install-completion` and `make install` put where the shell reads them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "_CLONED_PROXY_COMPLETE"

ARGUMENTS: Final[Mapping[str, str]] = {
    "allow": "denied",
    "deny": "hosts",
    "remove": "rules",
    "explain": "hosts",
    "exec": "tools",
    "shell": "tools",
    "token": "tools",
    "run": "pipelines",
    "preset show": "presets",
    "policy show": "versions",
    "policy restore": "versions",
    "approvals show": "approvals",
    "approvals approve": "approvals",
    "approvals reject": "approvals",
    "devices revoke": "devices",
}
"""What the argument of a command is one of (`store.workspaces.known_values`)."""
OPTIONS: Final[Mapping[str, str]] = {"--tool": "tools", "--preset": "presets"}
SEVERAL: Final = frozenset({"allow", "deny", "remove"})
"""Commands that take any number of it."""
VALUED: Final = frozenset(
    {"--for", "--uses", "--method", "--path", "--reason", "--policy", "--ttl", "--since", "--expected-version",
     "--image", "--network", "--env", "--mount", "--timeout", "--memory", "--cpus", "--topic", "--input", "--sandbox"}
)  # fmt: skip
"""Other options whose next word is their value, and no argument."""


def completed() -> bool:
    """Prints what the shell asks for and returns True, or returns False for what Typer is to answer."""
    mode = os.environ.get(VARIABLE, "")
    if mode == "complete_bash":
        words, current = _words_of_bash()
    elif mode in ("complete_zsh", "complete_fish"):
        words, current = _words(os.environ.get("_TYPER_COMPLETE_ARGS", ""))
    else:
        return False
    asked = kind_of(words)
    if asked is None or current.startswith("-"):
        return False
    kind, given, workspace = asked
    from cloned_proxy.store.workspaces.known_values import known
    from cloned_proxy.store.workspaces.workspace import Workspace

    values = known(kind, Workspace.find(Path(workspace) if workspace else None))
    _print([value for value in values if value.startswith(current) and value not in given], mode)
    return True


def kind_of(words: list[str]) -> tuple[str, list[str], str] | None:
    """What comes next: the kind of value, the arguments that are there already, and the workspace that was named.

    `words` are those before the one that is completed, without the name of the program. None where no value comes.
    """
    if "--" in words:
        return None
    command, rest = words[:1], words[1:]
    if command and any(name.startswith(f"{command[0]} ") for name in ARGUMENTS):
        command, rest = words[:2], words[2:]
    name = " ".join(command)
    if rest and rest[-1] in OPTIONS:
        return OPTIONS[rest[-1]], [], _workspace(rest)
    if rest and rest[-1] in (*VALUED, "--workspace"):
        return None
    valued = {*VALUED, *OPTIONS, "--workspace"}
    given = [word for before, word in zip(("", *rest), rest, strict=False) if before not in valued and word[:1] != "-"]
    if name not in ARGUMENTS or (given and name not in SEVERAL):
        return None
    return ARGUMENTS[name], given, _workspace(rest)


def _workspace(words: list[str]) -> str:
    return words[words.index("--workspace") + 1] if "--workspace" in words[:-1] else ""


def _words_of_bash() -> tuple[list[str], str]:
    from shlex import split

    try:
        words, position = split(os.environ.get("COMP_WORDS", "")), int(os.environ.get("COMP_CWORD", ""))
    except ValueError:  # an open quote, or no number: Typer knows what to make of it
        return [], "-"
    return words[1:position], words[position] if position < len(words) else ""


def _words(line: str) -> tuple[list[str], str]:
    """The words before the one that is completed, and that one, of a command line up to the cursor."""
    from shlex import split

    try:
        words = split(line)
    except ValueError:
        return [], "-"
    return (words[1:], "") if line.endswith(" ") else (words[1:-1], words[-1] if words else "")


def _print(values: list[str], mode: str) -> None:
    if mode == "complete_zsh":
        # A colon parts a value from its description.
        quoted = "\n".join('"{}"'.format(value.replace(":", r"\\:")) for value in values)
        sys.stdout.write(f"_arguments '*: :(({quoted}))'\n" if values else "_files\n")
    elif mode == "complete_bash":
        sys.stdout.write("\n".join(value.replace("*", r"\*") for value in values) + "\n")
    elif os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "get-args":
        sys.stdout.write("\n".join(values) + "\n")
    else:  # fish asks first whether there are any; without them it offers files
        sys.exit(0 if values else 1)
