"""The terminal of a container: its size from the very first moment, and keys that are all for the tool."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

_GATE: Final = 'read -r _; exec "$@"'
END_OF_FILE: Final = b"\x04"
"""Opens the gate: what a terminal takes for the end of a file, and does not echo."""

_NO_KEY: Final = 0xFF
"""A byte that UTF-8 does not have."""
_COMMA: Final = b","


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """In characters."""

    rows: int
    columns: int

    @property
    def known(self) -> bool:
        """A terminal that nobody gave a size to says 0 by 0."""
        return self.rows > 0 and self.columns > 0


def gated(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command behind a gate: it starts when END_OF_FILE arrives.

    Engines before API 1.42 cannot set the size of a terminal until its container runs; a command that asks for it once,
    when it starts, would always be told 0 by 0.
    """
    return ("sh", "-c", _GATE, "sh", *command)


def no_detach_keys() -> bytes:
    """The engine's `detachKeys` for a terminal from which nobody detaches.

    By default the engine takes Ctrl-P Ctrl-Q for itself: it keeps back each Ctrl-P until the next key, and ends the
    session for whoever pastes the two. It has no word for none, so that these are keys which nobody can type, and which
    nothing that is pasted can guess.
    """
    return _COMMA.join(bytes((_NO_KEY,)) for _ in range(8)) + _COMMA + _COMMA.join(_random_letters(8))


def _random_letters(count: int) -> list[bytes]:
    return [secrets.choice("abcdefghijklmnopqrstuvwxyz").encode() for _ in range(count)]
