"""A project that is a linked worktree of git: its repository lies elsewhere, and git in it needs that, too.

The project's `.git` is a file that anybody may have written, an earlier tool or the author of an archive. What it names
is shown only if it is a repository that names the project in turn (gitrepository-layout(5)): nobody without access to
that repository can have written that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.runner.values.spec import Mount

_MAX_POINTER: Final = 8192
_WRITTEN: Final = ("objects", "refs", "logs", "lfs", "rr-cache")
"""What a commit in a worktree writes of the repository. HEAD, index, hooks and settings of others are not among it."""
_KEPT: Final = ("commondir", "gitdir", "config.worktree")


@dataclass(frozen=True, slots=True)
class LinkedRepository:
    """Where the repository of a linked worktree is."""

    common: Path
    """The `.git` of the main checkout."""
    own: Path
    """What it keeps of this worktree: `worktrees/NAME` in it."""

    def writable(self) -> Iterator[Mount]:
        """Mounts over a read-only one of `common`, with which a commit in the worktree works."""
        for path in (*(self.common / name for name in _WRITTEN), self.own):
            if path.is_dir() and not path.is_symlink():
                yield Mount(str(path), str(path), read_only=False)
        for name in _KEPT:
            if (self.own / name).exists():
                yield Mount(str(self.own / name), str(self.own / name))


def linked_repository(project: Path) -> LinkedRepository | None:
    """None for a project that is no linked worktree, or whose repository lies in it."""
    own = _pointed_at(project, project / ".git", "gitdir: ")
    common = None if own is None else _pointed_at(own, own / "commondir", "")
    if own is None or common is None or own.is_relative_to(project) or own.parent != common / "worktrees":
        return None
    back = _pointed_at(own, own / "gitdir", "")
    return LinkedRepository(common, own) if back == project / ".git" else None


def _pointed_at(base: Path, file: Path, prefix: str) -> Path | None:
    """The path that a one-line file names, relative to `base`, links resolved."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        text = os.fsdecode(os.read(descriptor, _MAX_POINTER))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    line = text.removesuffix("\n")
    if not line.startswith(prefix) or not line.removeprefix(prefix) or "\n" in line or "\0" in line:
        return None
    return (base / line.removeprefix(prefix)).resolve()
