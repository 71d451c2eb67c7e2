"""The bytes of a policy file, before anybody reads a meaning into them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from cloned_proxy.store.files.files import read_regular_file

MAX_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of a policy file, and of any other document of the workspace."""
_VERSION_DIGITS: Final = 12


def read_policy_bytes(path: Path) -> bytes:
    """The file's bytes: a regular file of at most 16 MiB, links followed. Raises StoreError."""
    return read_regular_file(path, limit=MAX_BYTES, what="policy file")


def version_of(raw: bytes) -> str:
    """The version of a policy: the first 12 hex digits of the SHA-256 of its file."""
    return hashlib.sha256(raw).hexdigest()[:_VERSION_DIGITS]
