"""Durations as a policy file has them: one number and one unit."""

from __future__ import annotations

import re
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)", re.ASCII)
_UNITS: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_duration(value: object) -> float:
    """Seconds from a text such as `20s`, `30m` or `1h`. Raises ValueError with the fix in its message."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write a number with ms, s, m, h or d: 20s")
    return int(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as these seconds: `2h`, `90s`."""
    unit = next((unit for unit, size in _UNITS.items() if seconds >= size and seconds % size == 0), "ms")
    return f"{round(seconds / _UNITS[unit])}{unit}"
