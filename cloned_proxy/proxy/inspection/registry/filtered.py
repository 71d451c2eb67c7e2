"""What comes of filtering the metadata of one package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Raw

from cloned_proxy.proxy.inspection.registry.dates import Dates

type Piece = bytes | Raw


class MetadataError(ValueError):
    """Metadata that cannot be filtered, and so is not shown. The message is a clause about the package."""


class AbsentError(MetadataError):
    """The registry has no such package: hosts of files alone have none at all."""


@dataclass(frozen=True, slots=True)
class Filtered:
    pieces: Sequence[Piece] = field(repr=False)
    """The pieces of the document. Most are parts of the original, which are not copied."""
    dates: Dates
    kept: int
    """Versions, or files, that are still in it."""
    foreign: str = ""
    """An authority where files are that no rule with `registry` judges; they were left out."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)
