"""What the scripts that count uses answer (`use_scripts`)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

MAX_TOLD: Final = 120
NONSENSE: Final = "the store answers what none of its scripts does"


class UseAnswer(NamedTuple):
    """What a script answers."""

    word: str
    told: str
    steps: int

    @property
    def number(self) -> int:
        """Raises ValueError where what is told is none."""
        return int(self.told)

    @classmethod
    def read(cls, found: Any) -> UseAnswer:
        """Raises ValueError for an answer that no script gives."""
        if not isinstance(found, list) or len(found) != 3 or not all(isinstance(each, bytes) for each in found):  # noqa: PLR2004
            raise ValueError(NONSENSE)
        word, told, steps = (each[:MAX_TOLD].decode("ascii", errors="replace") for each in found)
        answer = cls(word, told, int(steps) if steps.isdecimal() else 0)
        if word in {"taken", "used_up"} and not told.isdecimal():
            raise ValueError(NONSENSE)
        return answer
