"""Replacing a file so that a reader, a crash or a full disk sees the old bytes or the new ones, never a part."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from cloned_proxy.store.files.errors import StoreError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: a temporary file beside it, fsync, rename, fsync of the directory.

    The mode (and, for root, the owner) of an existing file is kept; a new one is 0600. A symbolic link is followed, so
    the file that it points to changes and the link stays. Raises StoreError, leaving the old file as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        _replace(target, data)
    except OSError as error:
        raise StoreError(
            f"{path}: not written, the old content stands: {error.strerror or error}; {fix_for(error)}"
        ) from error


def _replace(target: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _keep_mode_and_owner(target, file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(name, target)  # noqa: PTH104  the same call, without a Path made for a name that mkstemp gave
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108  as above
        raise
    fsync_directory(target.parent)


def fsync_directory(directory: Path) -> None:
    """Makes a rename or a new name in `directory` survive a power cut. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_mode_and_owner(target: Path, descriptor: int) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    if os.geteuid() == 0:
        os.fchown(descriptor, old.st_uid, old.st_gid)


def fix_for(error: OSError) -> str:
    """What somebody can do about a file that could not be written."""
    match type(error).__name__, error.errno:
        case "PermissionError", _:
            return "make the directory writable for this user"
        case "FileNotFoundError", _:
            return "create the directory first"
        case _:
            return "free space on that file system, or mount it writable"
