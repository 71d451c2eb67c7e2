"""What was told to the plane, and what it has counted by it: until nothing of that is left, the plane keeps it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloned_proxy.proxy.plane.library import ID_BYTES
from cloned_proxy.telemetry.events import DecisionEvent

_OPEN: Final = 1


@dataclass(slots=True)
class Counted:
    """A verdict, while the plane may still use it or anything is open by it."""

    number: int
    event: DecisionEvent
    """What the decisions of the verdict have in common."""
    expires: float
    """Monotonic seconds."""
    handle: int
    live: bool = field(default=True, kw_only=True)
    counted: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0], kw_only=True)
    """What the metrics know of: granted or refused, open, relaying, bytes up, bytes down."""


def counts_of(library: ctypes.CDLL, verdict: Counted) -> tuple[list[int], str]:
    """Granted or refused, open, relaying, bytes up and down since it was published; the id of the newest decision."""
    numbers, last = (ctypes.c_int64 * 5)(), (ctypes.c_uint8 * ID_BYTES)()
    library.verdict_counts(verdict.handle, ctypes.byref(numbers), ctypes.byref(last))
    return list(numbers), bytes(last).hex()


def changed(library: ctypes.CDLL, verdicts: Sequence[Counted]) -> list[Counted]:
    """The verdicts that have counted anything since the last time."""
    handles = (ctypes.c_void_p * len(verdicts))(*(each.handle for each in verdicts))
    places = (ctypes.c_uint32 * len(verdicts))()
    found = library.verdicts_changed(handles, len(verdicts), places)
    return [verdicts[place] for place in places[:found]]


def retire[Verdict: Counted](
    library: ctypes.CDLL, known: dict[int, Verdict], ended: Iterable[Verdict], withdraw: Callable[[Verdict], None]
) -> list[int]:
    """Withdraws those that have ended, frees what is over and has nothing open; returns the numbers."""
    for verdict in ended:
        withdraw(verdict)
    retired: list[int] = []
    for verdict in tuple(known.values()):
        # What the metrics know of is what was counted last: nothing is freed before they know all of it.
        if not verdict.live and not verdict.counted[_OPEN] and counts_of(library, verdict)[0] == verdict.counted:
            del known[verdict.number]
            library.verdict_free(verdict.handle)
            retired.append(verdict.number)
    return retired
