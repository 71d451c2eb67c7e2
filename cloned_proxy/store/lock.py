"""One edit of a file at a time, across processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from cloned_proxy.store.errors import StoreError

LOCK_SECONDS: Final = 10.0


@contextlib.contextmanager
def locked(path: Path, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock of `path`, a file beside what it links to. Raises StoreError when it cannot be had in time."""
    target = Path(os.path.realpath(path))
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=seconds, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(f"{path}: another edit holds the lock for {seconds:.0f} s; end it") from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be locked for the edit: {error.strerror}; make its directory writable"
        ) from error
    try:
        yield
    finally:
        lock.release()
