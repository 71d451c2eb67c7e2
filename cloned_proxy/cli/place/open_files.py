"""Which files of a workspace other users can read."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_OF_TOOLS: Final = frozenset({"homes", "run"})
"""Below the workspace: kept homes, and what runs write. Closed as a whole; a `chmod` below would lock tools out."""


def open_to_others(root: Path) -> Iterator[Path]:
    """Files of ours, and the directories in which tools write: the tool's own user has to come at what lies there."""
    for place, directories, files in root.walk():
        closed = [name for name in directories if name in _OF_TOOLS and place == root]
        directories[:] = [name for name in directories if name not in closed]
        for path in (place / name for name in (*files, *closed)):
            with contextlib.suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and stat.S_IMODE(mode) & 0o077:
                    yield path
