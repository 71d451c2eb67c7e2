"""One edit of a file at a time, across processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from cloned_proxy.store.errors import StoreError

LOCK_SECONDS: Final = 10.0


@contextlib.contextmanager
def locked(path: Path, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock that belongs to `path`, a file beside it. Raises StoreError when it cannot be had in time."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds, mode=0o600)
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
