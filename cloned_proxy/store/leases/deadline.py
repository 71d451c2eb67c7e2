"""A moment that a wall clock cannot move away: kept beside the time since boot, which nobody sets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SET_BACK: Final = 60.0
"""Seconds that a wall clock may be behind the beginning before it is taken for set back."""


@cache
def boot_id() -> str:
    """What names the boot that `uptime` counts from; "" where the system does not tell."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def uptime() -> float:
    """Seconds since boot, sleep included: the same for all processes of a machine, and never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When something that began at `began` ends. Survives restarts, and the first clock to reach it counts."""

    began: float
    """Unix seconds."""
    wall: float
    """Unix seconds."""
    boot: str
    uptime: float
    """On `uptime()` of that boot."""

    @classmethod
    def after(cls, seconds: float, *, now: float, up: float) -> Deadline:
        return cls(now, now + seconds, boot_id(), up + seconds)

    def passed(self, *, now: float, up: float) -> bool:
        """Whether it is over. A clock set forward ends it early; one set back does not lengthen it."""
        if now >= self.wall:
            return True
        if self.boot and self.boot == boot_id():
            return up >= self.uptime
        # Another boot: only the wall clock tells. One that is before the beginning tells nothing, so it is over.
        return now < self.began - _SET_BACK
