"""The program: `cloned-proxy …`, and `python -m cloned_proxy …`. What needs none of the commands comes first."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile


def main() -> None:
    """Runs the program and exits with 0 done, 1 failed or denied, 2 bad usage or bad input."""
    from cloned_proxy.cli.warm.client import passed_on

    if (code := passed_on(sys.argv)) is not None:
        os._exit(code)  # nothing of this process is left to be written or closed
    from cloned_proxy.cli.start.ending import exit_code_of

    sys.exit(exit_code_of(lambda: _run(sys.argv[1:])))


def _run(words: list[str]) -> int | None:
    if words == ["--version"]:
        from cloned_proxy.cli.start.version import print_version

        print_version()
        return None
    if "_CLONED_PROXY_COMPLETE" in os.environ:
        from cloned_proxy.cli.start.completion import completed

        if completed():
            return None
    _check_encoding(words)
    from cloned_proxy.cli.start.quick import quick_call

    if (call := quick_call(words)) is not None:
        return call()
    from cloned_proxy.cli.start.app import program

    program()(prog_name="cloned-proxy")
    return None


def _check_encoding(words: Sequence[str]) -> None:
    """Refuses bytes that are no text, once for every option: no policy, log or answer could hold them.

    What stands behind `--` is a tool's own command, for which any bytes may have a meaning.
    """
    from cloned_proxy.cli.show.errors import CommandError

    for number, word in enumerate(takewhile(lambda word: word != "--", words), start=1):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(word).decode(errors="backslashreplace")
            raise CommandError(f"argument {number}, '{shown}', is not UTF-8; write it in UTF-8") from error


if __name__ == "__main__":
    main()
