"""A container that runs already and waits for the one command that it is for. Pure.

The image's own shell waits, and becomes the command by exec(2): below the engine's init there is then the same one
process, with the same environment, as if it had been started with the command. A shell reads a line from a pipe byte
by byte (POSIX.1-2024, XCU `read`), so that what comes behind it is the command's own input.
"""

from __future__ import annotations

from typing import Final

_SCRIPT: Final = r"""n='
'
IFS= read -r line || exit 125
eval "set -- $line"
command -v "$1" >/dev/null || { printf '[FATAL tini (%s)] exec %s failed: No such file or directory\n' $$ "$1" >&2
exit 127; }
exec "$@"
"""
"""What cannot be found is told in the words of the engine's init."""

GATE: Final = ("sh", "-c", _SCRIPT)
_LONGEST: Final = 32_768
_NEW_LINE: Final = "'\"$n\"'"


def opening(command: tuple[str, ...]) -> bytes | None:
    """The line that makes the gate this command; None for a command that is better started as it is."""
    if command[0].startswith("-"):
        return None  # an option for the shell's own words
    words = [word.replace("'", "'\\''").replace("\n", _NEW_LINE) for word in command]
    line = " ".join(f"'{word}'" for word in words).encode(errors="surrogateescape") + b"\n"
    return line if len(line) <= _LONGEST else None
