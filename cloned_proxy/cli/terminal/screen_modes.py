"""What a program has switched at the terminal that shows it, and how to switch it back when it has died. Pure.

An editor that is killed leaves its own screen up, the cursor hidden and every movement of the mouse as input. Modes
that the terminal driver keeps (tcgetattr(3)) are not meant here: these are the terminal's own (xterm's "ctlseqs").
"""

from __future__ import annotations

import re
from typing import Final

# The numbers of `CSI ? n h`, which switches on, and `CSI ? n l`: application cursor keys, mouse reports, focus reports,
# the alternate screen, bracketed paste, held-back output. What a terminal has by itself is on the right of the bar.
_OFF_AT_REST: Final = frozenset({1, 9, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026})
_ON_AT_REST: Final = frozenset({7, 25})  # wrapping at the margin, the cursor
_SWITCH: Final = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])|\x1b\[([<>=])[0-9;]{0,12}u|\x1b\[>4;([0-9])m|\x1b([=>])")
_LONGEST: Final = 48
"""Bytes of the longest sequence that is looked for."""


class ScreenModes:
    """Follows the output of one program."""

    def __init__(self) -> None:
        self._tail = b""
        self._changed: dict[int, None] = {}
        """Modes that are not at rest, in the order in which they were left."""
        self._keyboard = 0
        """How often the program has asked for kitty's keyboard protocol and not given it back."""
        self._modified_keys = False
        self._keypad = False

    def see(self, piece: bytes) -> None:
        """A piece of output; a sequence may lie across two."""
        data = self._tail + piece
        end = 0
        for match in _SWITCH.finditer(data):
            end = match.end()
            self._take(match)
        self._tail = data[max(end, len(data) - _LONGEST) :]

    def _take(self, match: re.Match[bytes]) -> None:
        numbers, switch, keyboard, modified, keypad = match.groups()
        if numbers is not None:
            for number in (int(text) for text in numbers.split(b";") if text):
                self._switch(number, on=switch == b"h")
        elif keyboard is not None:
            self._keyboard = max(0, self._keyboard + {b">": 1, b"<": -1, b"=": 0}[keyboard])
        elif modified is not None:
            self._modified_keys = modified != b"0"
        else:
            self._keypad = keypad == b"="

    def _switch(self, number: int, *, on: bool) -> None:
        self._changed.pop(number, None)
        if (on and number in _OFF_AT_REST) or (not on and number in _ON_AT_REST):
            self._changed[number] = None

    def undone(self) -> bytes:
        """What brings the terminal to rest; nothing after a program that has cleaned up behind itself."""
        back = [b"\x1b[<%du" % self._keyboard] if self._keyboard else []
        back += [b"\x1b[>4m"] if self._modified_keys else []
        back += [b"\x1b>"] if self._keypad else []
        back += [b"\x1b[?%d%c" % (number, b"lh"[number in _ON_AT_REST]) for number in reversed(self._changed)]
        return b"".join(back) + (b"\x1b[0m" if back else b"")
