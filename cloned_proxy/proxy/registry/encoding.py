"""The body of a metadata response without its content coding, within a bound."""

from __future__ import annotations

import zlib
from typing import Final

from cloned_proxy.proxy.registry.filtered import MetadataError

MAX_METADATA: Final = 64 * 2**20
"""Bytes, decoded as well as on the wire: the largest packuments that are known have about half of it."""
_GZIP: Final = 16 + zlib.MAX_WBITS


def decoded(body: bytes, codings: list[str], limit: int = MAX_METADATA) -> bytes:
    """The content of `body`. Raises MetadataError for a coding that was not asked for, and over the limit."""
    names = [name for coding in codings for part in coding.split(",") if (name := part.strip().lower()) != "identity"]
    if len(body) > limit:
        raise too_large(limit)
    if not names:
        return body
    if names not in (["gzip"], ["x-gzip"]):
        raise MetadataError("its metadata came in an encoding that nobody asked for")
    inflating = zlib.decompressobj(_GZIP)
    try:
        content = inflating.decompress(body, limit + 1)
    except zlib.error as error:
        raise MetadataError("its metadata cannot be decompressed") from error
    if len(content) > limit:
        raise too_large(limit)
    if not inflating.eof or inflating.unused_data:
        raise MetadataError("its metadata is cut off, or something follows it")
    return content


def too_large(limit: int = MAX_METADATA) -> MetadataError:
    """For what is over the limit."""
    return MetadataError(f"its metadata has more than {limit // 2**20} MiB, the most that is filtered")
