"""The body of a metadata response without its content coding, within a bound."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import batched
from typing import Final

from cloned_proxy.proxy.inspection.registry.filtered import MetadataError, Piece

MAX_METADATA: Final = 64 * 2**20
"""Bytes, decoded as well as on the wire: the largest packuments that are known have about half of it."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_AT_ONCE: Final = 65_536
"""Bytes of what is compressed, of which ten times as many come."""
_PIECES: Final = 1000
"""Joined before they are compressed: most of them are short, and each call costs more than its copy."""
_NEVER: Final = ("0", "0.0", "0.00", "0.000")


def decoded(body: bytes, codings: list[str], limit: int = MAX_METADATA) -> bytes | bytearray:
    """The content of `body`. Raises MetadataError for a coding that was not asked for, and over the limit."""
    names = [name for coding in codings for part in coding.split(",") if (name := part.strip().lower()) != "identity"]
    if len(body) > limit:
        raise too_large(limit)
    if not names:
        return body
    if names not in (["gzip"], ["x-gzip"]):
        raise MetadataError("its metadata came in an encoding that nobody asked for")
    inflating = zlib.decompressobj(_GZIP)
    content = bytearray()  # grows in place, so that no second copy of a large document is made
    start = 0
    for start in range(0, len(body), _AT_ONCE):
        try:
            content += inflating.decompress(body[start : start + _AT_ONCE], limit + 1 - len(content))
        except zlib.error as error:
            raise MetadataError("its metadata cannot be decompressed") from error
        if len(content) > limit:
            raise too_large(limit)
        if inflating.eof:
            break
    if not inflating.eof or inflating.unused_data or start + _AT_ONCE < len(body):
        raise MetadataError("its metadata is cut off, or something follows it")
    return content


def accepts_gzip(values: Iterable[str]) -> bool:
    """Whether a client with these values of Accept-Encoding takes gzip (RFC 9110, section 12.5.3)."""
    offers = [offer.replace(" ", "").lower() for value in values for offer in value.split(",")]
    return any(
        offer.partition(";")[0] in ("gzip", "x-gzip") and offer.partition(";q=")[2] not in _NEVER for offer in offers
    )


def zipped(pieces: Sequence[Piece]) -> bytes:
    """Compresses at the fastest level: a large document would otherwise be copied from buffer to buffer on its way."""
    deflating = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return b"".join((*(deflating.compress(b"".join(some)) for some in batched(pieces, _PIECES)), deflating.flush()))


def too_large(limit: int = MAX_METADATA) -> MetadataError:
    """For what is over the limit."""
    return MetadataError(f"its metadata has more than {limit // 2**20} MiB, the most that is filtered")
