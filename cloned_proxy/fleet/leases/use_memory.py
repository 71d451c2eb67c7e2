"""What a replica remembers of the counts of uses, across its own restarts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file

_MAX_BYTES: Final = 64 * 1024
_MAX_WORD: Final = 16 * 1024


@dataclass(slots=True)
class UseMemory:
    """What this replica knows of counts, on disk: the last generation, and when it was resumed (Unix seconds)."""

    path: Path
    generation: str = ""
    resumed: float = 0.0
    steps: int = 0
    """Steps of that generation's count that the store knew of when this was kept, or later."""
    word: str = ""
    """The signed word by which it was resumed; "" where it is not known any more."""

    def load(self, now: float) -> None:
        """Raises StoreError: a memory that cannot be read is none that may be forgotten.

        A time that cannot have been by `now` (Unix seconds) is not kept: no word would ever be later.
        """
        if not self.path.exists(follow_symlinks=False):
            return
        raw = read_regular_file(self.path, limit=_MAX_BYTES, what="memory of used leases")
        try:
            known = json.loads(raw)
            self.generation, self.resumed = str(known["generation"]), float(known["resumed"])
            self.steps = int(known.get("steps", 0))
            self.word = str(known.get("word", ""))
            if not self.resumed <= now + SKEW_SECONDS:
                self.resumed, self.word = 0.0, ""
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{self.path}: not readable ({type(error).__name__}); restore it, or run `cloned-proxy fleet resume` "
                "and delete it"
            ) from error

    def follow(self, generation: str, resumed: float, word: bytes) -> None:
        """Goes over to another count. Raises StoreError."""
        self._write(generation, resumed, 0, word.decode("ascii") if len(word) <= _MAX_WORD and word.isascii() else "")

    def keep(self, steps: int) -> None:
        """Raises StoreError."""
        if steps > self.steps:
            self._write(self.generation, self.resumed, steps, self.word)

    def _write(self, generation: str, resumed: float, steps: int, word: str) -> None:
        known = {"generation": generation, "resumed": resumed, "steps": steps, "word": word}
        write_atomically(self.path, json.dumps(known).encode())
        self.generation, self.resumed, self.steps, self.word = generation, resumed, steps, word
