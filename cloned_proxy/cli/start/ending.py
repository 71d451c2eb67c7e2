"""The outermost frame of every command: an error becomes one line on stderr, with the fix in it, and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from cloned_proxy.cli.show.errors import BAD_INPUT, FAILED, INTERRUPTED, CommandError, say


def exit_code_of(command: Callable[[], int | None]) -> int | None:
    """Runs it; what it raises is told to the user. None stands for 0."""
    try:
        return command()
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and the interpreter must not complain about it at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:  # Ctrl-C in a command that has nothing to clean up
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  a user gets a line and an exit code, never a traceback
        return report(error)


def report(error: Exception) -> int:
    """Prints the error and returns its exit code."""
    if isinstance(error, CommandError):
        say(f"cloned-proxy: {error}")
        return error.code
    if (code := _known(error)) is not None:
        for line in str(error).splitlines() or [type(error).__name__]:
            say(f"cloned-proxy: {line}")
        if shown := getattr(error, "shown", ""):  # of a DocumentError: the line of the file
            for line in shown.splitlines():
                say(line)
        return code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        say(f"cloned-proxy: {place}{error.strerror or error}; check that the path exists and that you may use it")
        return BAD_INPUT
    import traceback

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
    from cloned_proxy.policy.reading.parse import PolicyError
    from cloned_proxy.proxy.transport.listener import BadAddressError, BindError
    from cloned_proxy.runner.values.errors import SandboxError, SandboxInputError
    from cloned_proxy.store.files.errors import ConflictError, StoreError

    if isinstance(error, (PolicyError, BadAddressError, SandboxInputError)):
        return BAD_INPUT
    if isinstance(error, (BindError, ConflictError, SandboxError)):
        return FAILED
    return BAD_INPUT if isinstance(error, StoreError) else None
