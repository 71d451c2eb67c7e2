"""What brings a terminal back to rest after a program that could not do it itself."""

from __future__ import annotations

import pytest

from cloned_proxy.cli.terminal.screen_modes import ScreenModes
from cloned_proxy.cli.terminal.terminal_environment import terminal_environment

CASES: list[tuple[str, bytes, bytes]] = [
    ("plain text", b"hello \x1b[31mred\x1b[0m\r\n", b""),
    ("an editor that ended well", b"\x1b[?1049h\x1b[?25ltext\x1b[?25h\x1b[?1049l", b""),
    ("an editor that was killed", b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l\x1b[0m"),
    ("two modes in one sequence", b"\x1b[?1000;1006h", b"\x1b[?1006l\x1b[?1000l\x1b[0m"),
    ("wrapping", b"\x1b[?7l", b"\x1b[?7h\x1b[0m"),
    ("a mode that nobody knows", b"\x1b[?9999h\x1b[?;h\x1b[?2;h", b""),
    ("kitty's keyboard, asked for twice", b"\x1b[>1u\x1b[>5u", b"\x1b[<2u\x1b[0m"),
    ("kitty's keyboard, given back", b"\x1b[>1u\x1b[<u\x1b[<u", b""),
    ("modified keys and the keypad", b"\x1b[>4;2m\x1b=", b"\x1b[>4m\x1b>\x1b[0m"),
    ("the same, given back", b"\x1b[>4;2m\x1b=\x1b[>4;0m\x1b>", b""),
    ("numbers without end", b"\x1b[?" + b"1" * 1000 + b"h", b""),
]


@pytest.mark.parametrize(("shown", "back"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_only_what_is_still_switched_is_switched_back(shown: bytes, back: bytes) -> None:
    whole, bytewise = ScreenModes(), ScreenModes()
    whole.see(shown)
    for number in shown:
        bytewise.see(bytes((number,)))
    assert whole.undone() == back
    assert bytewise.undone() == back


ENVIRONMENTS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {"TERM": "xterm-256color"}),
    ({"TERM": "screen"}, {"TERM": "screen"}),
    ({"TERM": "xterm-kitty", "COLORTERM": "truecolor"}, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}),
    ({"TERM": "dumb", "NO_COLOR": "1"}, {"TERM": "dumb", "NO_COLOR": "1"}),
    ({"TERM": "linux", "NO_COLOR": "", "LANG": "C"}, {"TERM": "linux"}),
    ({"TERM": "linux", "LANG": "en_GB.utf8"}, {"TERM": "linux", "LANG": "C.UTF-8"}),
    ({"TERM": "linux", "LC_ALL": "C", "LANG": "en_GB.UTF-8", "AWS_SECRET": "x"}, {"TERM": "linux"}),
]


@pytest.mark.parametrize(("host", "inside"), ENVIRONMENTS)
def test_of_the_host_only_what_the_terminal_can_do_is_handed_over(host: dict[str, str], inside: dict[str, str]) -> None:
    assert terminal_environment(host) == inside
