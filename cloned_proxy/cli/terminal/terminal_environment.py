"""What a program inside learns of the terminal that shows it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_AS_THEY_ARE: Final = ("COLORTERM", "NO_COLOR")
_KNOWN: Final = re.compile(
    r"ansi|cons25|cygwin|dumb|hurd|linux|mach(-bold|-color)?|pcansi|rxvt(-basic|-unicode(-256color)?)?|sun|vt(52|100|102|220)"
    r"|screen(-256color)?(-bce)?|screen-[sw]|screen\.xterm-256color|tmux(-256color)?|wsvt25m?"
    r"|xterm(-256color|-color|-mono|-r5|-r6|-vt220|-xfree86)?"
)
"""The terminals that Debian's ncurses-base describes: what an image knows that nobody has added others to."""
_OTHERS: Final = "xterm-256color"
"""What the newer terminals (kitty, Ghostty, foot, Alacritty) understand; an editor refuses a name it cannot look up."""
_UTF_8: Final = "C.UTF-8"
"""The one locale with UTF-8 that an image has without the package `locales`."""


def terminal_environment(host: Mapping[str, str]) -> dict[str, str]:
    """The variables for the command, from those of the host: the kind of terminal, its colours, its encoding."""
    term = host.get("TERM", "")
    env = {"TERM": term if _KNOWN.fullmatch(term) else _OTHERS}
    env |= {name: host[name] for name in _AS_THEY_ARE if host.get(name)}
    locale = host.get("LC_ALL") or host.get("LC_CTYPE") or host.get("LANG") or ""
    if locale.upper().replace("-", "").endswith("UTF8"):
        env["LANG"] = _UTF_8
    return env
