"""What is wrong with logs in the store: a few things by name, all of them by number.

Whoever may write into the store can make up logs and entries without end, and each would be one more line for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_NAMED: Final = 5
"""Findings that are named of each log."""
_LOGS: Final = 20
"""Logs that are named, of those which no key proves."""


@dataclass(slots=True)
class _Found:
    count: int = 0
    named: list[str] = field(default_factory=list)


class Findings:
    """What one reading found. Logs with a receipt of a named key come first, all of them: nobody else has any."""

    def __init__(self) -> None:
        self._proven: dict[str, _Found] = {}
        self._others: dict[str, _Found] = {}

    def add(self, log: str, what: str, *, proven: bool = False) -> None:
        """`log` is what people call it. `proven`: it has a receipt of a key that was named."""
        logs = self._proven if proven else self._others
        found = logs.setdefault(log, _Found())
        found.count += 1
        if len(found.named) < _NAMED and (proven or len(logs) <= _LOGS):
            found.named.append(what)

    def lines(self) -> list[str]:
        """What to tell people."""
        return [*self._lines()]

    def clear(self) -> None:
        self._proven.clear()
        self._others.clear()

    def _lines(self) -> Iterator[str]:
        for log, found in (*self._proven.items(), *self._others.items()):
            yield from (f"{log}: {what}" for what in found.named)
            if (more := found.count - len(found.named)) and found.named:
                yield f"{log}: and {more:,} more like {'that' if len(found.named) == 1 else 'those'}"
        unnamed = [found.count for found in self._others.values() if not found.named]
        if unnamed:
            yield (
                f"{len(unnamed):,} more logs have {sum(unnamed):,} such faults; the store may have made them up: "
                "name the keys of the replicas in `fleet: {audit_keys: […]}`, and theirs come first"
            )
