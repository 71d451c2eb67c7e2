"""Decisions that are one entry of the log with something else: with equal ones, or with the end of their flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from cloned_proxy.telemetry.events import WHOLE, DecisionEvent, FlowEnd


@dataclass(frozen=True, slots=True)
class RepeatedDecision(DecisionEvent):
    """Denials of one caller that differ in nothing but their ids (`repeated_id`) and times: one entry for all."""

    count: int = 1
    last: float = 0.0
    """Unix seconds of the last one; `at` is the first one's."""

    @property
    def times(self) -> int:
        return self.count

    @property
    def latest(self) -> float:
        return self.last


_COUNTED_DIGITS: Final = 8


def repeated(first: DecisionEvent, count: int, last: float) -> RepeatedDecision:
    """One entry for `count` denials that are equal to the first one."""
    fields: dict[str, Any] = {name: getattr(first, name) for name in DecisionEvent.__slots__}
    return RepeatedDecision(**fields, count=count, last=last)


def repeated_id(first: str, number: int) -> str:
    """The id of the call `number` (from 0) of an entry whose first one has the id `first`: its last digits count on."""
    head, tail = first[:-_COUNTED_DIGITS], first[-_COUNTED_DIGITS:]
    return f"{head}{(int(tail, 16) + number) % 16**_COUNTED_DIGITS:0{_COUNTED_DIGITS}x}"


def common_digits(decision_id: str) -> str:
    """What the ids of the calls of one entry have in common."""
    return decision_id[:-_COUNTED_DIGITS]


def is_of_entry(decision_id: str, first: str, count: int) -> bool:
    """Whether a call has this id that stands in the entry of `count` calls, the first of which has the id `first`."""
    try:
        distance = (int(decision_id[-_COUNTED_DIGITS:], 16) - int(first[-_COUNTED_DIGITS:], 16)) % 16**_COUNTED_DIGITS
    except ValueError:
        return decision_id == first
    return common_digits(decision_id) == common_digits(first) and distance < count


@dataclass(frozen=True, slots=True)
class FinishedDecision(DecisionEvent):
    """A plain exchange that was over before its decision went to the disk: one entry for both. Fields as in FlowEnd."""

    ended: float = 0.0
    """Unix seconds."""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    cause: str = WHOLE


def finished(decision: DecisionEvent, end: FlowEnd) -> FinishedDecision:
    """The decision and its end as one."""
    return _finished(*_decided(decision), end.at, end.bytes_up, end.bytes_down, end.seconds, end.cause)


_decided: Final[Callable[[DecisionEvent], tuple[Any, ...]]] = attrgetter(*DecisionEvent.__slots__)
_finished: Final[Callable[..., FinishedDecision]] = FinishedDecision
"""Makes a `FinishedDecision` by position: one is made for nearly every plain request."""
