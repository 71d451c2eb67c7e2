"""Durations and sizes as people write them: one grammar each, for policy, settings, commands and API."""

from __future__ import annotations

import re
from typing import Final

_DURATION_UNITS: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""Seconds; those in which a duration is written again."""
_SECONDS: Final = {**_DURATION_UNITS, "w": 604_800.0}
DURATION_PATTERN: Final = "^(?:[0-9]{1,9}(?:ms|[smhdw])){1,6}$"
"""For a JSON schema: every text that `parse_duration` reads, and no other."""
_DURATION: Final = re.compile(DURATION_PATTERN.removeprefix("^").removesuffix("$"), re.ASCII)
_PART: Final = re.compile("([0-9]+)(ms|[smhdw])", re.ASCII)

MIN_TERM: Final = 1.0
MAX_TERM: Final = 315_360_000.0
"""Seconds: ten years."""

_BYTES: Final = {
    "": 1, "b": 1, "B": 1,
    "kB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    "k": 2**10, "m": 2**20, "g": 2**30, "K": 2**10, "M": 2**20, "G": 2**30, "kb": 2**10, "mb": 2**20, "gb": 2**30,
}  # fmt: skip
"""Bytes of each unit: those of SI, of IEC 80000-13, and the short ones of `docker run --memory`, powers of 1024."""
SIZE_PATTERN: Final = f"^[0-9]{{1,15}} ?(?:{'|'.join(sorted(unit for unit in _BYTES if unit))})?$"
"""For a JSON schema: every text that `parse_size` reads, and no other."""
_SIZE: Final = re.compile("([0-9]{1,15}) ?([A-Za-z]*)", re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds, 0 or more, of a text such as `20s` or `1h30m`. Raises ValueError with the fix in its message."""
    if not isinstance(value, str) or _DURATION.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a duration; write numbers with ms, s, m, h, d or w: 90s, 1h30m, 7d")
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(value))


def parse_term(value: object) -> float:
    """Seconds for which something is to hold or to be looked back on: a duration, or a number, from one to ten years.

    Raises ValueError with the fix in its message.
    """
    seconds = float(value) if isinstance(value, (int, float)) and value is not True else parse_duration(value)
    if not MIN_TERM <= seconds <= MAX_TERM:
        raise ValueError(f"{value!r} is out of range; write something from 1s to 3650d")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest single number and unit that `parse_duration` reads as these seconds: `2h`, `90s`."""
    units = _DURATION_UNITS.items()
    unit = next((unit for unit, size in units if seconds >= size and seconds % size == 0), "ms")
    return f"{round(seconds / _DURATION_UNITS[unit])}{unit}"


def rounded_duration(seconds: float) -> str:
    """The two largest units, for people: `1h 30m`, `45s`; `0s` for what is over."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_DURATION_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def parse_size(value: object) -> int:
    """Bytes of an integer or a text such as `200MiB` or `512m`. Raises ValueError with the fix in its message."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{value!r} is not a size; write bytes or a number with KiB, MiB, GiB, kB, MB or GB: 200MiB")
    return int(match[1]) * _BYTES[match[2]]
