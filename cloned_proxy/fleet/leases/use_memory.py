"""What a replica remembers of the counts of uses, across its own restarts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file

_MAX_BYTES: Final = 4096


@dataclass(slots=True)
class UseMemory:
    """What this replica knows of counts, on disk: the last generation, and when it was resumed (Unix seconds)."""

    path: Path
    generation: str = ""
    resumed: float = 0.0
    steps: int = 0
    """Of the count of that generation, that the store knew of when this was kept, or later."""

    def load(self) -> None:
        """Raises StoreError: a memory that cannot be read is none that may be forgotten."""
        if not self.path.exists(follow_symlinks=False):
            return
        raw = read_regular_file(self.path, limit=_MAX_BYTES, what="memory of used leases")
        try:
            known = json.loads(raw)
            self.generation, self.resumed = str(known["generation"]), float(known["resumed"])
            self.steps = int(known.get("steps", 0))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{self.path}: not readable ({type(error).__name__}); restore it, or run `cloned-proxy fleet resume` "
                "and delete it"
            ) from error

    def keep(self, generation: str, resumed: float, steps: int) -> None:
        """Raises StoreError."""
        if generation == self.generation:
            steps = max(steps, self.steps)
        known = {"generation": generation, "resumed": resumed, "steps": steps}
        if known != {"generation": self.generation, "resumed": self.resumed, "steps": self.steps}:
            write_atomically(self.path, json.dumps(known).encode())
        self.generation, self.resumed, self.steps = generation, resumed, steps
