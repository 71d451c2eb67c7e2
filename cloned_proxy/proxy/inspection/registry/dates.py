"""What a registry says about the age of a package's files, and what of it is remembered."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from cloned_proxy.policy.paths.registry_path import plain_path
from cloned_proxy.policy.terms.registry import Registry

MAX_FILES: Final = 100_000
"""Remembered in all, at some 300 bytes each. Who needs more asks the registry again."""
_FRESH_SECONDS: Final = 600.0
"""A date does not change; that a registry has taken a file back is noticed after this."""
_PORTS: Final = {"https": 443, "http": 80}


class Dated(NamedTuple):
    version: str
    published: float | None
    """Unix seconds; None where the registry does not say."""


@dataclass(frozen=True, slots=True)
class Dates:
    """The release dates of one package."""

    package: str
    files: Mapping[str, Dated] = field(repr=False)
    """Release dates by the `file_key` of the file's URL."""
    order: Callable[[Iterable[str]], str]
    """The newest of some versions, pre-releases only where there is nothing else; "" of none."""
    spelled: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The path and query as the metadata has them, where they differ from those of the key."""

    absent: bool = False
    """The registry has no such package."""

    def newest(self, registry: Registry, now: float) -> str:
        """The newest version with a file that is old enough; "" when there is none."""
        return self.order(
            {each.version for each in self.files.values() if is_old_enough(each.published, registry, now)}
        )


def is_old_enough(published: float | None, registry: Registry, now: float) -> bool:
    """A date in the future is none: whoever sets it there would choose when it becomes old."""
    return published is not None and now - published >= registry.min_age


def parse_time(value: object) -> float | None:
    """Unix seconds from an ISO 8601 text with a time zone; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None


def file_key(url: str) -> str:
    """`host:port/path`, percent-encoding removed: the same for every spelling of a URL. "" for one that has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ""
    path = plain_path(parts.path)
    if path is None or not parts.hostname or parts.username is not None:
        return ""
    return key_of(parts.hostname, 443 if parts.scheme == "http" and port == _PORTS["http"] else port, path)


def key_of(host: str, port: int, path: str) -> str:
    """The `file_key` of a file on `host` whose percent-decoded path is known."""
    return f"{host.lower()}:{port}{path}"


def spelled_in(url: str) -> str:
    """The path and query of a URL as a request line has them."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


class KnownDates:
    """What metadata has said lately, within a bound. Of what falls out, the registry is asked again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[Hashable, tuple[float, Dates]] = OrderedDict()
        self._files = 0

    def get(self, key: Hashable) -> Dates | None:
        """`key` names the index, the package, and with whose credentials it was asked."""
        entry = self._found.get(key)
        if entry is None:
            return None
        if self._clock() - entry[0] > _FRESH_SECONDS:
            self._drop(key)
            return None
        self._found.move_to_end(key)
        return entry[1]

    def put(self, key: Hashable, dates: Dates) -> None:
        self._drop(key)
        if len(dates.files) > MAX_FILES:
            return
        self._found[key] = (self._clock(), dates)
        self._files += len(dates.files) + 1
        while self._files > MAX_FILES:
            self._drop(next(iter(self._found)))

    def _drop(self, key: Hashable) -> None:
        if (entry := self._found.pop(key, None)) is not None:
            self._files -= len(entry[1].files) + 1
