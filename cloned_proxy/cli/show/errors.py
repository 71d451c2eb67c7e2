"""What a command says when it cannot go on, and the exit code of each kind of end."""

from __future__ import annotations

import sys
from typing import Final

# What the program exits with, beside 0 for done and the exit code of a sandboxed command, which is passed on.
FAILED: Final = 1
"""The command failed, or was denied: the same words may do at another time."""
BAD_INPUT: Final = 2
"""What a person wrote or set up is wrong."""
TIMED_OUT: Final = 124
"""A sandboxed command ran longer than it may; as in `timeout(1)`."""
INTERRUPTED: Final = 130
"""Ctrl-C; 128 and the number of SIGINT, as shells have it."""


class CommandError(Exception):
    """A command cannot go on. The message is one line that names the place and the fix."""

    def __init__(self, message: str, *, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """A message for people, on stderr: data alone goes to stdout. What it quotes cannot drive the terminal.

    Commands of ours are spelled as they can be typed here.
    """
    from cloned_proxy.cli.show.output import visible
    from cloned_proxy.program_name import in_this_shell

    print(visible(in_this_shell(message)), file=sys.stderr)  # noqa: T201  this is where a program's messages are printed
