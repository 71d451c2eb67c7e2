"""`.cloned/identity.key`: 32 random bytes that sign tool credentials, made once and readable by their owner only."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.private_file import create_private, read_private

KEY_BYTES: Final = 32


def load_or_create_key(path: Path) -> bytes:
    """The key at `path`, made on first use. Two processes that start at once get the same one. Raises StoreError."""
    if not path.exists(follow_symlinks=False):
        create_private(path, secrets.token_bytes(KEY_BYTES))
    return load_key(path)


def load_key(path: Path) -> bytes:
    """An existing key, if nobody but this user can read it. Raises StoreError with the command that fixes it."""
    key = read_private(
        path, limit=KEY_BYTES, missing=" yet; run `cloned-proxy serve` once", replace="a new one is made"
    )
    if len(key) != KEY_BYTES:
        raise StoreError(f"{path}: not {KEY_BYTES} bytes; delete it, a new key is made (tokens must be minted again)")
    return key
