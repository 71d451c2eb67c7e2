"""What the attempts came to: leaks, blind controls, and a verdict. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cloned_proxy.runner.probe.plan import Attempt


class Result(enum.StrEnum):
    OK = "ok"
    LEAK = "leak"
    """Something got out, or could have."""
    BROKEN = "broken"
    """What must be open is not: the probe would call a proxy that refuses everything perfect."""
    BLIND = "blind"
    """The probe did not see a way out that is certainly there."""


@dataclass(frozen=True, slots=True)
class Line:
    id: str
    group: str
    what: str
    expected: str
    observed: str
    detail: str
    seconds: float
    result: Result


@dataclass(frozen=True, slots=True)
class ProbeReport:
    attempts: tuple[Line, ...]
    controls: tuple[Line, ...]
    seconds: float

    @property
    def sealed(self) -> bool:
        """Whether every attempt ended as expected and every control was seen."""
        return bool(self.attempts) and all(line.result is Result.OK for line in (*self.attempts, *self.controls))

    def as_json(self) -> dict[str, Any]:
        return {
            "sealed": self.sealed,
            "seconds": round(self.seconds, 2),
            "attempts": [asdict(line) for line in self.attempts],
            "controls": [asdict(line) for line in self.controls],
        }


def judge_sealed(attempts: Iterable[Attempt], seen: Mapping[str, Mapping[str, Any]]) -> tuple[Line, ...]:
    """The sealed container's lines; an attempt without an observation counts as open."""
    return tuple(_line(attempt, seen.get(attempt.id), _sealed_result) for attempt in attempts)


def judge_controls(attempts: Iterable[Attempt], seen: Mapping[str, Mapping[str, Any]]) -> tuple[Line, ...]:
    """The open container's lines: each must be open, unless this kernel does not have it."""
    return tuple(_line(attempt, seen.get(attempt.id), _control_result, expected="open") for attempt in attempts)


def _line(attempt: Attempt, seen: Mapping[str, Any] | None, judge: Any, *, expected: str | None = None) -> Line:
    found = seen or {"outcome": "missing", "detail": "the probe said nothing about it", "seconds": 0.0}
    wanted = expected or attempt.expected
    return Line(
        id=attempt.id,
        group=attempt.group,
        what=attempt.what,
        expected=wanted,
        observed=str(found["outcome"]),
        detail=str(found["detail"]),
        seconds=float(found["seconds"]),
        result=judge(wanted, str(found["outcome"])),
    )


def _sealed_result(expected: str, observed: str) -> Result:
    if expected == "open":
        return Result.OK if observed == "open" else Result.BROKEN
    return Result.OK if observed in ("blocked", "unavailable") else Result.LEAK


def _control_result(expected: str, observed: str) -> Result:
    return Result.OK if observed in (expected, "unavailable") else Result.BLIND
