"""The scratch directory of a run, on the host's side of the wall.

Everything in a scratch directory was written by the tool. It is opened without following links, without blocking on a
FIFO, and read up to a bound.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path, PurePosixPath

from cloned_proxy.runner.values.errors import ToolFailedError


def read_scratch(root: Path, name: str, *, limit: int) -> bytes:
    """A regular file that the tool left at `name` (relative). Raises ToolFailedError.

    Each part is opened relative to the one before with O_NOFOLLOW: no link on the way can lead out.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise ToolFailedError(f"result {name!r} is not a path below /sandbox")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            opened.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=opened[-1]))
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        info = os.fstat(opened[-1])
        if not stat.S_ISREG(info.st_mode):
            raise ToolFailedError(f"/sandbox/{name} is not a regular file; a tool's result must be one")
        with os.fdopen(opened.pop(), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ToolFailedError(f"/sandbox/{name} cannot be read: {error.strerror}; links are not followed") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if len(data) > limit:
        raise ToolFailedError(f"/sandbox/{name} is larger than {limit} bytes; write less, or raise the limit")
    return data


def new_scratch(parent: Path, run: str) -> Path:
    """The directory of one call. The tool's user may write in it; nobody else can reach it through its 0700 parent."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    parent.chmod(0o700)
    path = parent / run
    path.mkdir(mode=0o700)
    path.chmod(0o1777)
    return path


def remove_scratch(path: Path) -> bool:
    """Removes it with everything in it; False when something in it belongs to somebody else and had to stay."""
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
