"""A packument without the versions that are too young: pure.

Packuments of 10 MB and more exist, so the text is not made into one tree of objects: each version is read by itself and
forgotten, and what stays is copied as the registry wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from cloned_proxy.policy.registry import Registry
from cloned_proxy.policy.registry_path import Part, target_of
from cloned_proxy.proxy.registry.dates import Dated, Dates, file_key, is_old_enough, parse_time, spelled_in
from cloned_proxy.proxy.registry.filtered import Filtered, MetadataError
from cloned_proxy.proxy.registry.json_members import Members, behind_blanks, value_at
from cloned_proxy.proxy.registry.semver import newest, parse_semver

_KNOWN: Final = frozenset({"name", "time", "dist-tags"})
_NOT_COPIED: Final = frozenset({"versions", "time", "dist-tags", "_attachments"})
"""What is written anew, and what would hold the tarballs themselves."""
_TIMES_OF_ALL: Final = frozenset({"created", "modified"})
_NO_DATE: Final = float("inf")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_~+-][A-Za-z0-9._~+-]*")
"""Of a file whose URL has neither an escape nor a query."""


class _Version(NamedTuple):
    start: int
    """Where its key begins."""
    end: int
    url: str
    """Of its tarball; "" when there is none."""
    deprecated: bool


@dataclass(slots=True)
class _Packument:
    """Places in the text, and what of it is needed."""

    members: list[tuple[int, int]] = field(default_factory=list)
    """Those that are copied."""
    versions: dict[str, _Version] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)


def filter_packument(
    body: bytes, package: str, *, registry: Registry, now: float, covered: Callable[[str], bool]
) -> Filtered:
    """The document with what is old enough. Raises MetadataError.

    `covered` tells of a URL whether a rule with `registry` judges requests for it; what lies elsewhere is left out,
    because nobody would look at its age.
    """
    try:
        # The structure of JSON is ASCII. One byte stays one character, whatever the text is in.
        read = _read(body.decode("latin-1"))
    except ValueError as error:
        raise MetadataError("its metadata is not the JSON of a packument") from error
    if read.known.get("name", package) != package:
        raise MetadataError("its metadata is that of another package")
    times = read.known.get("time")
    if not isinstance(times, dict):
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
    body = _written(body, read, kept, times)
    return Filtered(body, Dates(package, files.dated, newest, files.spelled), len(kept), files.foreign)


def one_version(body: bytes, wanted: str) -> bytes | None:
    """Of a filtered packument the version that a number or a tag names, as a registry tells it by itself."""
    document = json.loads(body)
    found = document["versions"].get(document["dist-tags"].get(wanted, wanted))
    return None if found is None else json.dumps(found).encode("ascii")


def _read(text: str) -> _Packument:
    """Raises ValueError."""
    read = _Packument()
    members = Members(text, behind_blanks(text, 0))
    for key, start in members:
        if key == "versions":
            members.at = _read_versions(text, members.at, read)
            continue
        value, members.at = value_at(text, members.at)
        if key in _KNOWN:
            read.known[key] = value
        if key not in _NOT_COPIED:
            read.members.append((start, members.at))
    if behind_blanks(text, members.at) != len(text):
        raise ValueError("something follows the document")
    return read


def _read_versions(text: str, at: int, read: _Packument) -> int:
    versions = Members(text, at)
    for version, start in versions:
        value, versions.at = value_at(text, versions.at)
        dist = value.get("dist") if isinstance(value, dict) else None
        url = dist.get("tarball") if isinstance(dist, dict) else None
        deprecated = isinstance(value, dict) and bool(value.get("deprecated"))
        read.versions[version] = _Version(start, versions.at, url if isinstance(url, str) else "", deprecated)
    return versions.at


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
        """By the URL as it is written up to the last slash: the key up to there, and whether a rule judges it."""
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
        ours = target is not None and target.part is Part.FILE and target.package == self._package
        return (key, self._covered(url)) if ours else ("", False)


def _written(body: bytes, read: _Packument, kept: Mapping[str, _Version], times: Mapping[str, Any]) -> bytes:
    view = memoryview(body)
    pieces: list[bytes | memoryview] = [b"{"]
    for start, end in read.members:
        pieces += [view[start:end], b","]
    pieces.append(b'"versions":{')
    for found in kept.values():
        pieces += [view[found.start : found.end], b","]
    if kept:
        pieces.pop()
    stays = {key: value for key, value in times.items() if key in kept or key in _TIMES_OF_ALL}
    if "modified" in stays and kept:
        stays["modified"] = max((times[version] for version in kept), key=lambda text: parse_time(text) or 0.0)
    pieces += [b'},"time":', _encoded(stays), b',"dist-tags":', _encoded(_tags(read, kept)), b"}"]
    return b"".join(pieces)


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("latin-1")


def _tags(read: _Packument, kept: Mapping[str, _Version]) -> dict[str, str]:
    """Each tag at its version, or at the one that it would have had before: never a higher one."""
    tags = read.known.get("dist-tags")
    found = {}
    for tag, version in tags.items() if isinstance(tags, dict) else ():
        moved = version if version in kept else _before(version, kept, any_will_do=tag == "latest")
        if moved:
            found[tag] = moved
    return found


def _before(version: object, kept: Mapping[str, _Version], *, any_will_do: bool) -> str:
    """The newest below `version`: a pre-release only for one, a deprecated one only where there is nothing else."""
    limit = parse_semver(version) if isinstance(version, str) else None
    if limit is None:
        return newest(kept) if any_will_do else ""
    parsed = ((parse_semver(text), text) for text in kept)
    below = [(found, text) for found, text in parsed if found is not None and found < limit]
    if limit.final:
        below = [(found, text) for found, text in below if found.final]
    current = [(found, text) for found, text in below if not kept[text].deprecated]
    if not below:
        return newest(kept) if any_will_do else ""
    return max(current or below)[1]
