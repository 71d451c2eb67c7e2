"""Opening files that other people may have put there: regular, bounded, never a hang."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cloned_proxy.store.files.errors import StoreError

type Signature = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime (ns): differs after every ordinary change of a file."""


def signature_of(path: Path) -> Signature | None:
    """What the file at `path` looks like from outside; None when there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def read_regular_file(path: Path, *, limit: int, what: str) -> bytes:
    """The bytes of a regular file of at most `limit` bytes, symbolic links followed. Raises StoreError."""
    try:
        # O_NONBLOCK: a FIFO in the file's place must be refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no {what} here; create it, or name another one") from error
    except OSError as error:
        raise StoreError(f"{path}: the {what} cannot be read: {error.strerror}; fix its permissions") from error
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: the {what} is not a regular file; put a file there")
    with os.fdopen(descriptor, "rb") as file:
        if info.st_size > limit:
            raise StoreError(f"{path}: the {what} has {info.st_size} bytes, more than {limit}; shorten it")
        try:
            raw = file.read(limit + 1)  # it may have grown since
        except OSError as error:
            raise StoreError(f"{path}: the {what} cannot be read: {error.strerror}; restore it") from error
    if len(raw) > limit:
        raise StoreError(f"{path}: the {what} has more than {limit} bytes; shorten it")
    return raw
