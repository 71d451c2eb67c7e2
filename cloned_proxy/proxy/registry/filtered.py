"""What comes of filtering the metadata of one package."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloned_proxy.proxy.registry.dates import Dates


class MetadataError(ValueError):
    """Metadata that cannot be filtered, and so is not shown. The message is a clause about the package."""


class AbsentError(MetadataError):
    """The registry has no such package: hosts of files alone have none at all."""


@dataclass(frozen=True, slots=True)
class Filtered:
    body: bytes = field(repr=False)
    dates: Dates
    kept: int
    """Versions, or files, that are still in it."""
    foreign: str = ""
    """An authority where files are that no rule with `registry` judges; they were left out."""
