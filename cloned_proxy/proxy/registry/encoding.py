"""The body of a metadata response without its content coding, within a bound."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from cloned_proxy.proxy.registry.filtered import MetadataError

MAX_METADATA: Final = 64 * 2**20
"""Bytes, decoded as well as on the wire: the largest packuments that are known have about half of it."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_NEVER: Final = ("0", "0.0", "0.00", "0.000")


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


def accepts_gzip(values: Iterable[str]) -> bool:
    """Whether a client with these values of Accept-Encoding takes gzip (RFC 9110, section 12.5.3)."""
    offers = [offer.replace(" ", "").lower() for value in values for offer in value.split(",")]
    return any(
        offer.partition(";")[0] in ("gzip", "x-gzip") and offer.partition(";q=")[2] not in _NEVER for offer in offers
    )


def zipped(body: bytes) -> bytes:
    """As fast as it goes: a large document would otherwise be copied from buffer to buffer on its way to the client."""
    deflating = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return deflating.compress(body) + deflating.flush()


def too_large(limit: int = MAX_METADATA) -> MetadataError:
    """For what is over the limit."""
    return MetadataError(f"its metadata has more than {limit // 2**20} MiB, the most that is filtered")
