"""A packument without the versions that are too young: pure.

Packuments of 10 MB and more exist, so the text is not made into one tree of objects: of each version two values are
read, and what stays is copied as the registry wrote it. A document in which a name is there twice would mean something
else to each reader, and is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

from msgspec import Raw, Struct, ValidationError
from msgspec.json import Decoder, encode

from cloned_proxy.policy.paths.registry_path import PackagePart, target_of
from cloned_proxy.policy.terms.registry import Registry
from cloned_proxy.proxy.inspection.registry.dates import Dated, Dates, file_key, is_old_enough, parse_time, spelled_in
from cloned_proxy.proxy.inspection.registry.filtered import Filtered, MetadataError, Piece
from cloned_proxy.proxy.inspection.registry.json_members import Text, members, values, whole_characters
from cloned_proxy.proxy.inspection.registry.semver import Semver, newest, parse_semver

_NOT_COPIED: Final = frozenset({"versions", "time", "dist-tags", "_attachments"})
"""What is written anew, and what would hold the tarballs themselves."""
_TIMES_OF_ALL: Final = frozenset({"created", "modified"})
_NO_DATE: Final = float("inf")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_~+-][A-Za-z0-9._~+-]*")
"""The pattern of a file's URL that has neither an escape nor a query."""


class _Dist(Struct):
    tarball: str = ""


class _Manifest(Struct):
    """What is read of a version."""

    dist: _Dist
    deprecated: Any = None


_MANIFEST: Final = Decoder(_Manifest)
_STRING: Final = Decoder(str)
_EMPTY: Final = Raw(b"{}")


class _Version(NamedTuple):
    text: Raw
    url: str
    """URL of the version's tarball; "" when there is none."""
    deprecated: bool

    @classmethod
    def of(cls, text: Raw) -> Self:
        """Raises ValueError."""
        try:
            manifest = _MANIFEST.decode(text)
        except ValidationError:
            return cls(text, "", deprecated=False)
        return cls(text, manifest.dist.tarball, bool(manifest.deprecated))


@dataclass(frozen=True, slots=True)
class _Packument:
    copied: Mapping[str, Raw]
    versions: Mapping[str, _Version]
    name: str | None
    times: Mapping[str, Any] | None
    tags: Mapping[str, Any]

    @classmethod
    def of(cls, text: Text) -> Self:
        """Raises ValueError."""
        found = members(text)
        return cls(
            copied={name: value for name, value in found.items() if name not in _NOT_COPIED},
            versions={name: _Version.of(value) for name, value in members(found.get("versions", _EMPTY)).items()},
            name=_STRING.decode(found["name"]) if "name" in found else None,
            times=values(found["time"]) if "time" in found else None,
            tags=values(found.get("dist-tags", _EMPTY)),
        )


def filter_packument(
    body: bytes | bytearray, package: str, *, registry: Registry, now: float, covered: Callable[[str], bool]
) -> Filtered:
    """The document with what is old enough. Raises MetadataError.

    `covered` tells of a URL whether a rule with `registry` judges requests for it; what lies elsewhere is left out,
    because nobody would look at its age.
    """
    try:
        read = _read(body)
    except ValueError as error:
        raise MetadataError("its metadata is not the JSON of a packument") from error
    if read.name not in (None, package):
        raise MetadataError("its metadata is that of another package")
    times = read.times
    if times is None:
        raise MetadataError("its metadata holds no dates (`time`)")
    files = _Tarballs(package, registry, covered)
    keys = {version: files.add(found.url, version, times.get(version)) for version, found in read.versions.items()}
    kept = {
        version: found
        for version, found in read.versions.items()
        if (key := keys[version])
        and is_old_enough(files.dated[key].published, registry, now)
        and files.covers(found.url)
    }
    times = {name: value for name, value in times.items() if name in kept or name in _TIMES_OF_ALL}
    if "modified" in times and kept:
        times["modified"] = times[max(kept, key=lambda version: files.dated[keys[version]].published or 0.0)]
    pieces = tuple(_written(read, kept, times))
    return Filtered(pieces, Dates(package, files.dated, newest, files.spelled), len(kept), files.foreign)


def one_version(body: bytes, wanted: str) -> bytes | None:
    """The version of a filtered packument that a number or a tag names, as a registry gives it alone."""
    document = members(body)
    found = members(document["versions"]).get(values(document["dist-tags"]).get(wanted, wanted))
    return None if found is None else bytes(found)


def _read(body: bytes | bytearray) -> _Packument:
    """Raises ValueError."""
    try:
        return _Packument.of(body)
    except ValueError:
        whole = whole_characters(body)
        if whole == body:
            raise
        return _Packument.of(whole)


class _Tarballs:
    """The tarballs that a packument names. Nearly all lie in one directory, which is looked at once.

    A tarball whose path is not one of this package is not there: it is judged by the dates of its own package alone.
    One that two versions name is as young as the younger of them.
    """

    def __init__(self, package: str, registry: Registry, covered: Callable[[str], bool]) -> None:
        self._package = package
        self._registry = registry
        self._covered = covered
        self._directories: dict[str, tuple[str, bool]] = {}
        """For each URL up to its last slash: the key up to there, and whether a rule judges it."""
        self.dated: dict[str, Dated] = {}
        self.spelled: dict[str, str] = {}
        """The paths that a key does not spell."""
        self.foreign = ""

    def add(self, url: str, version: str, date: object) -> str:
        """Notes the date of a tarball and returns its key; "" where the URL is none of this package."""
        key = self.key_of(url)
        if not key:
            return ""
        published = parse_time(date)
        older = self.dated.get(key)
        if older is None or (published or _NO_DATE) > (older.published or _NO_DATE):
            self.dated[key] = Dated(version, published)
        if not url.endswith(key[key.index("/") :]):
            self.spelled[key] = spelled_in(url)
        return key

    def key_of(self, url: str) -> str:
        """The key of a tarball of this package, "" for any other URL."""
        directory, _, name = url.rpartition("/")
        if _PLAIN_NAME.fullmatch(name) is None:
            return self._judged(url)[0]
        key = self._directory(directory)[0]
        return key and f"{key}/{name}"

    def covers(self, url: str) -> bool:
        covered = self._directory(url.rpartition("/")[0])[1]
        if not covered:
            self.foreign = self.foreign or urlsplit(url).netloc
        return covered

    def _directory(self, directory: str) -> tuple[str, bool]:
        if (found := self._directories.get(directory)) is None:
            key, covered = self._judged(f"{directory}/file.tgz")
            found = self._directories[directory] = (key.rpartition("/")[0], covered)
        return found

    def _judged(self, url: str) -> tuple[str, bool]:
        key = file_key(url)
        target = target_of(self._registry, spelled_in(url)) if key else None
        ours = target is not None and target.part is PackagePart.FILE and target.package == self._package
        return (key, self._covered(url)) if ours else ("", False)


def _written(read: _Packument, kept: Mapping[str, _Version], times: Mapping[str, Any]) -> Iterator[Piece]:
    yield b"{"
    for name, value in read.copied.items():
        yield from (encode(name), b":", value, b",")
    yield b'"versions":{'
    comma = b""
    for name, version in kept.items():
        yield from (comma, encode(name), b":", version.text)
        comma = b","
    yield from (b'},"time":', encode(times), b',"dist-tags":', encode(_tags(read.tags, kept)), b"}")


def _tags(tags: Mapping[str, Any], kept: Mapping[str, _Version]) -> dict[str, str]:
    """Each tag at its version, or at the one that it would have had before: never a higher one."""
    found, before = {}, _Before(kept)
    for tag, version in tags.items():
        moved = version if version in kept else before.version(version, any_will_do=tag == "latest")
        if moved:
            found[tag] = moved
    return found


class _Before:
    """The versions that are shown, in their order: read once, and only where a tag has to move."""

    def __init__(self, kept: Mapping[str, _Version]) -> None:
        self._kept = kept

    @cached_property
    def _ordered(self) -> list[tuple[Semver, str]]:
        return sorted((parsed, text) for text in self._kept if (parsed := parse_semver(text)) is not None)

    def version(self, version: object, *, any_will_do: bool) -> str:
        """The newest below: a pre-release only for one, a deprecated one only where there is nothing else."""
        limit = parse_semver(version) if isinstance(version, str) else None
        below = [each for each in self._ordered if limit is not None and each[0] < limit]
        if limit is not None and limit.final:
            below = [each for each in below if each[0].final]
        if not below:
            return newest(self._kept) if any_will_do else ""
        current = (text for _, text in reversed(below) if not self._kept[text].deprecated)
        return next(current, below[-1][1])
