"""The outermost frame: every error becomes one line on stderr, with the fix in it, and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

# What the program exits with, beside 0 for done and the exit code of a sandboxed command, which is passed on.
FAILED: Final = 1
"""It failed, or was denied: the same words may do at another time."""
BAD_INPUT: Final = 2
"""What a person wrote or set up is wrong."""
TIMED_OUT: Final = 124
"""A sandboxed command ran longer than it may; as in `timeout(1)`."""
INTERRUPTED: Final = 130
"""Ctrl-C; 128 and the number of SIGINT, as shells have it."""
TERMINATED: Final = 143
"""The same for SIGTERM."""


class CommandError(Exception):
    """A command cannot go on. The message is one line that names the place and the fix."""

    def __init__(self, message: str, *, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """A message for people, on stderr: data alone goes to stdout. What it quotes cannot drive the terminal."""
    from cloned_proxy.cli.output import visible

    print(visible(message), file=sys.stderr)  # noqa: T201  this is where a program's messages are printed


def main() -> None:
    """Runs the program and exits with 0 done, 1 failed or denied, 2 bad usage or bad input."""
    from cloned_proxy.cli.app import app

    try:
        _check_encoding(sys.argv[1:])
        app(prog_name="cloned-proxy")
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and the interpreter must not complain about it at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:  # noqa: BLE001  a user gets a line and an exit code, never a traceback
        sys.exit(report(error))


def _check_encoding(words: Sequence[str]) -> None:
    """Refuses bytes that are no text, once for every option: no policy, log or answer could hold them.

    What stands behind `--` is a tool's own command, for which any bytes may have a meaning.
    """
    for number, word in enumerate(takewhile(lambda word: word != "--", words), start=1):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(word).decode(errors="backslashreplace")
            raise CommandError(f"argument {number}, '{shown}', is not UTF-8; write it in UTF-8") from error


def report(error: Exception) -> int:
    """Prints the error and returns its exit code."""
    if isinstance(error, CommandError):
        say(f"cloned-proxy: {error}")
        return error.code
    if (code := _known(error)) is not None:
        for line in str(error).splitlines() or [type(error).__name__]:
            say(f"cloned-proxy: {line}")
        return code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        say(f"cloned-proxy: {place}{error.strerror or error}; check that the path exists and that you may use it")
        return BAD_INPUT
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119  a label, not a path to open
    say(f"cloned-proxy: internal error at {where}: {type(error).__name__}: {error}; please report it")
    return FAILED


def _known(error: Exception) -> int | None:
    """The exit code of what the parts below raise with the fix in the message; None for anything else.

    What a person wrote or set up is bad input. A port that is taken, and a policy that somebody else has just edited,
    are not: the same words may do at another time.
    """
    # Imported here, after something was raised: `--help` must not pay for these.
    from cloned_proxy.policy.parse import PolicyError
    from cloned_proxy.proxy.listener import BadAddressError, BindError
    from cloned_proxy.store.errors import ConflictError, StoreError

    if isinstance(error, (PolicyError, BadAddressError)):
        return BAD_INPUT
    if isinstance(error, (BindError, ConflictError)):
        return FAILED
    return BAD_INPUT if isinstance(error, StoreError) else None
