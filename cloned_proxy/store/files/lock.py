"""One edit of a file at a time, across processes.

flock(2) itself: the `filelock` package brings an audit hook of the interpreter along, which is then called for each
socket that the proxy makes and connects, and nothing here needs more than the one call.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloned_proxy.store.files.errors import StoreError

LOCK_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.02


@contextlib.contextmanager
def locked(path: Path, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock of `path`, a file beside what it links to. Raises StoreError when it cannot be had in time."""
    target = Path(os.path.realpath(path))
    try:
        descriptor = _take(target.with_name(f".{target.name}.lock"), seconds)
    except TimeoutError as error:
        raise StoreError(f"{path}: another edit holds the lock for {seconds:.0f} s; end it") from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be locked for the edit: {error.strerror}; make its directory writable"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def _take(file: Path, seconds: float) -> int:
    """A descriptor that holds the lock until it is closed. The file stays: who waits for it has it open already."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise TimeoutError from error
                time.sleep(_RETRY_SECONDS)
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
