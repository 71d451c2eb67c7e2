"""A directory that nobody else can write, or made."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def check_own_directory(directory: Path) -> None:
    """Raises OSError for a directory that somebody else made or can write."""
    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o022:
        raise PermissionError(f"{directory}: not this user's alone")
