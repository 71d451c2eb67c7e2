"""A project of a user's own, with a workspace that is served."""

from __future__ import annotations

import os
from pathlib import Path

OWNER = os.getuid() or 1000
"""Root's projects are given to somebody: no tool runs as root."""


def give(directory: Path) -> None:
    """Gives a tree to OWNER, but for workspaces, which stay with whoever uses them."""
    if os.geteuid() != 0:
        return
    for path, names, files in os.walk(directory):
        names[:] = [name for name in names if name != ".cloned"]
        for name in (".", *names, *files):
            os.lchown(f"{path}/{name}", OWNER, OWNER)
