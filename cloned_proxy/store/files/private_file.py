"""Small files, keys above all: made once, readable by their owner only, never through a link."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from cloned_proxy.store.files.atomic import fix_for, fsync_directory
from cloned_proxy.store.files.errors import StoreError


def read_private(path: Path, *, limit: int, missing: str, replace: str) -> bytes:
    """At most `limit` + 1 bytes of a file that nobody but this user can read.

    `missing` ends the sentence "there is no key" with what to do, `replace` says what happens once it is deleted.
    Raises StoreError with the command that fixes it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no key{missing}") from error
    except OSError as error:
        raise StoreError(
            f"{path}: the key cannot be opened: {error.strerror}; it must be a file of this user, not a link"
        ) from error
    try:
        _check(path, os.fstat(descriptor), replace)
        return os.read(descriptor, limit + 1)
    finally:
        os.close(descriptor)


def _check(path: Path, info: os.stat_result, replace: str) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise StoreError(f"{path}: not a regular file; delete it, {replace}")
    if info.st_uid != os.geteuid():
        raise StoreError(f"{path}: belongs to user {info.st_uid}; run `chown {os.geteuid()} {path}`")
    if info.st_mode & 0o077:
        raise StoreError(f"{path}: others can read the key; run `chmod 600 {path}`")


def create_private(path: Path, content: bytes) -> bool:
    """Makes the file (0600) unless one is there: of two processes that try at once, one wins; False for the other.

    Raises StoreError.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A hard link fails when the name exists, where a rename would replace the key another process just made.
            os.link(draft, path, follow_symlinks=False)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        fsync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: the file cannot be written: {error.strerror}; {fix_for(error)}") from error
    return True
