"""The program: `cloned-proxy …`, and `python -m cloned_proxy …`.

The outermost frame of every command: an error becomes one line on stderr, with the fix in it, and an exit code. What
needs none of the commands is answered before they are imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from itertools import takewhile

from cloned_proxy.cli.errors import BAD_INPUT, FAILED, INTERRUPTED, CommandError, say
from cloned_proxy.cli.version import print_version


def main() -> None:
    """Runs the program and exits with 0 done, 1 failed or denied, 2 bad usage or bad input."""
    words = sys.argv[1:]
    try:
        if words == ["--version"]:
            print_version()
            return
        if "_CLONED_PROXY_COMPLETE" in os.environ:
            from cloned_proxy.cli.completion import completed

            if completed():
                return
        _check_encoding(words)
        from cloned_proxy.cli.quick import quick_call

        if (call := quick_call(words)) is not None:
            sys.exit(call())
        from cloned_proxy.cli.app import app

        app(prog_name="cloned-proxy")
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and the interpreter must not complain about it at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except KeyboardInterrupt:  # Ctrl-C in a command that has nothing to clean up
        sys.exit(INTERRUPTED)
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
    from cloned_proxy.policy.parse import PolicyError
    from cloned_proxy.proxy.listener import BadAddressError, BindError
    from cloned_proxy.store.errors import ConflictError, StoreError

    if isinstance(error, (PolicyError, BadAddressError)):
        return BAD_INPUT
    if isinstance(error, (BindError, ConflictError)):
        return FAILED
    return BAD_INPUT if isinstance(error, StoreError) else None


if __name__ == "__main__":
    main()
