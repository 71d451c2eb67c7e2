"""The terminal of a container: its size from the very first moment, and keys that are all for the tool."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

_GATE: Final = (
    'n=0; while [ "$(stty size 2>/dev/null)" = "0 0" ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done; exec "$@"'
)
"""Ten seconds at most: an engine that does not answer in that time is about to fail anyway."""

INIT_ENVIRONMENT: Final = {"TINI_KILL_PROCESS_GROUP": "1"}
"""Tells the engine's init to pass a signal on to the command's whole group: Ctrl-Z stops all of it (`foreground`)."""

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
    """The command behind a gate: it starts when its terminal has a size.

    Engines before API 1.42 cannot set that until the container runs; a command that asks for it once, when it starts,
    would always be told 0 by 0. A byte for the gate to read would do as well, until somebody types Ctrl-Z before it is
    read: that empties a terminal's input.
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
