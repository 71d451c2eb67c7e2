"""`.cloned/identity.key`: 32 random bytes that sign tool credentials, made once and readable by their owner only."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cloned_proxy.store.atomic import fix_for, fsync_directory
from cloned_proxy.store.errors import StoreError

KEY_BYTES: Final = 32


def load_or_create_key(path: Path) -> bytes:
    """The key at `path`, made on first use. Two processes that start at once get the same one. Raises StoreError."""
    if not path.exists(follow_symlinks=False):
        _create(path)
    return load_key(path)


def load_key(path: Path) -> bytes:
    """An existing key, if nobody but this user can read it. Raises StoreError with the command that fixes it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no key yet; run `cloned-proxy serve` once") from error
    except OSError as error:
        raise StoreError(
            f"{path}: the key cannot be opened: {error.strerror}; it must be a file of this user, not a link"
        ) from error
    try:
        _check(path, os.fstat(descriptor))
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise StoreError(f"{path}: not {KEY_BYTES} bytes; delete it, a new key is made (tokens must be minted again)")
    return key


def _check(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise StoreError(f"{path}: not a regular file; delete it, a new key is made")
    if info.st_uid != os.geteuid():
        raise StoreError(f"{path}: belongs to user {info.st_uid}; run `chown {os.geteuid()} {path}`")
    if info.st_mode & 0o077:
        raise StoreError(f"{path}: others can read the key; run `chmod 600 {path}`")


def _create(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            # A hard link fails when the name exists, where a rename would replace the key another process just made.
            os.link(draft, path, follow_symlinks=False)
        except FileExistsError:
            return
        finally:
            draft.unlink(missing_ok=True)
        fsync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: no key could be written: {error.strerror}; {fix_for(error)}") from error
