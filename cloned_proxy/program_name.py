"""What this program is called in the shell in which it was started: hints are there to be typed.

`cloned-proxy` where the PATH leads to this very installation, else a path that works from the current directory.

What is recorded or sent says `cloned-proxy …` whatever it is called here: the answer to a caller, the log, the API and
every `--json`. Their readers sit in other directories, shells and machines, where a path of this one would not work,
and a sandboxed tool need not learn where somebody's files are. `serve` says at its start what to type for it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Final

NAME: Final = "cloned-proxy"

_COMMAND: Final = re.compile(rf"(^|  |[`:;(>=|&] ?){NAME}(?= [a-z-])", re.MULTILINE)
"""A command in a message stands at the start of a line, in backticks or behind punctuation; prose does not."""


@cache
def program_name() -> str:
    """The word or words, quoted for a shell, that start this program from the current directory."""
    own = _own_file()
    if own is None:
        return shlex.join([sys.executable, "-m", "cloned_proxy"])
    if (found := _on_path()) is not None and found.samefile(own):
        return NAME
    try:
        near = own.relative_to(Path.cwd())
    except (ValueError, OSError):  # elsewhere, or a directory that is gone
        return shlex.quote(str(own))
    # A word without a slash would be looked for on the PATH.
    return shlex.quote(str(near) if near.parent != Path() else f"./{near}")


def absolute_words() -> tuple[str, ...]:
    """The words that start this program from anywhere, for files in which other programs look them up."""
    own = _own_file()
    return (str(own),) if own is not None else (sys.executable, "-P", "-m", "cloned_proxy")


def in_this_shell(message: str) -> str:
    """The message with each command of ours spelled so that it can be typed here."""
    return _COMMAND.sub(lambda found: found[1] + program_name(), message)


def _own_file() -> Path | None:
    """The script that was started, else the one beside this interpreter; None for an installation without one."""
    started = Path(os.path.abspath(sys.argv[0]))  # noqa: PTH100  `absolute` keeps the `..` of what was typed
    for script in (started, Path(sys.executable).with_name(NAME)):
        if script.name == NAME and script.is_file():
            return script
    return None


def _on_path() -> Path | None:
    """Where a shell finds the name; empty parts of the PATH are the current directory, as for a shell."""
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        script = Path(directory or ".", NAME)
        if script.is_file() and os.access(script, os.X_OK):
            return script
    return None
