"""Durations as people type them: `30m`, `1h30m`, `7d`."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(?:[0-9]{1,6}[smhdw])+")
_PART: Final = re.compile(r"([0-9]+)([smhdw])")
_LONGEST: Final = 10 * 365 * 86_400


def parse_duration(text: str) -> int:
    """Whole seconds, at least 1. Raises ValueError with the fix in its message."""
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit such as 90s, 30m, 1h30m or 7d")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"{text!r} is out of range; use something between 1s and 520w")
    return seconds


def format_seconds(seconds: float) -> str:
    """The two largest units, for people: `1h 30m`, `45s`."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
