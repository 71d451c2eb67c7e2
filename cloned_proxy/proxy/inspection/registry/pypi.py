"""A project page of PyPI's simple API, or its per-project JSON, without the files that are too young: pure.

Upload times are only in the JSON (PEP 700), so that is what the proxy asks for; a client that wants HTML (PEP 503) gets
the page written from it. Each file has a date of its own: a wheel that was added to an old release is young.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from cloned_proxy.policy.paths.registry_path import project_of_file
from cloned_proxy.policy.terms.registry import Registry
from cloned_proxy.policy.terms.strict_json import each_key_once
from cloned_proxy.proxy.inspection.registry.dates import Dated, Dates, file_key, is_old_enough, parse_time, spelled_in
from cloned_proxy.proxy.inspection.registry.filtered import Filtered, MetadataError

SIMPLE_JSON: Final = "application/vnd.pypi.simple.v1+json"
SIMPLE_HTML: Final = "application/vnd.pypi.simple.v1+html"

type _Covered = Callable[[str], bool]


def filter_simple(
    body: bytes | bytearray, project: str, *, base: str, registry: Registry, now: float, covered: _Covered
) -> Filtered:
    """The document of PEP 691 with the files that are old enough, their URLs absolute. Raises MetadataError.

    `base` is the URL that was asked for. `covered` as in `npm.filter_packument`.
    """
    document = _object(body)
    files = document.get("files")
    if not isinstance(files, list):
        raise MetadataError("its metadata is not the JSON of a project page (PEP 691)")
    sieve = _Sieve(project, base, registry, now, covered)
    kept = [each for file in files if (each := sieve.passed(file, "upload-time", "filename")) is not None]
    document["files"] = kept
    if "versions" in document:
        document["versions"] = sorted({_version_of(each["filename"]) for each in kept}, key=_order_key)
    return sieve.filtered(json.dumps(document).encode("ascii"), len(kept))


def filter_project(
    body: bytes | bytearray, project: str, *, base: str, registry: Registry, now: float, covered: _Covered
) -> Filtered:
    """PyPI's per-project JSON with the releases that are old enough; `info` is kept where its version is one of them.

    Raises MetadataError.
    """
    document = _object(body)
    releases, urls = document.get("releases"), document.get("urls")
    if not isinstance(releases, dict) and not isinstance(urls, list):
        raise MetadataError("its metadata is not the JSON of a project")
    sieve = _Sieve(project, base, registry, now, covered)
    kept: dict[str, list[object]] = {}
    for version, files in (releases or {}).items():
        if isinstance(files, list):
            passed = [sieve.passed(file, "upload_time_iso_8601", "filename") for file in files]
            if found := [each for each in passed if each is not None]:
                kept[version] = list(found)
    listed = urls if isinstance(urls, list) else []
    passed = [sieve.passed(file, "upload_time_iso_8601", "filename") for file in listed]
    document["urls"] = [each for each in passed if each is not None]
    if isinstance(releases, dict):
        document["releases"] = kept
    _settle_info(document, kept)
    return sieve.filtered(json.dumps(document).encode("ascii"), len(kept) + len(document["urls"]))


def as_html(body: bytes, project: str) -> bytes:
    """The page of PEP 503 from a filtered document of `filter_simple`."""
    lines = [_anchor(file) for file in json.loads(body)["files"]]
    title = html.escape(project)
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html><head><meta charset="utf-8"><meta name="pypi:repository-version" content="1.0">',
            f"<title>Links for {title}</title></head><body><h1>Links for {title}</h1>",
            *lines,
            "</body></html>\n",
        )
    ).encode()


def wants_json(accept: Iterable[str]) -> bool:
    """Whether a client prefers the JSON of PEP 691 over HTML (RFC 9110, section 12.5.1).

    Whoever says nothing gets HTML, as from the index itself.
    """
    weights = {"json": 0.0, "html": 0.0}
    for value in accept:
        for offer in value.lower().split(","):
            kind, *parameters = (part.strip() for part in offer.split(";"))
            weight = next((_weight(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
            if kind in (SIMPLE_JSON, "application/vnd.pypi.simple.latest+json"):
                weights["json"] = max(weights["json"], weight)
            elif kind in (SIMPLE_HTML, "application/vnd.pypi.simple.latest+html", "text/html", "*/*"):
                weights["html"] = max(weights["html"], weight)
    return weights["json"] > 0 and weights["json"] >= weights["html"]


class _Sieve:
    def __init__(self, project: str, base: str, registry: Registry, now: float, covered: _Covered) -> None:
        self._project = project
        self._base = base
        self._registry = registry
        self._now = now
        self._covered = covered
        self._files: dict[str, Dated] = {}
        self._spelled: dict[str, str] = {}
        self._foreign = ""

    def passed(self, file: object, date: str, name: str) -> dict[str, Any] | None:
        """The entry with an absolute URL if it may be seen. Its date is noted in any case."""
        if not isinstance(file, dict) or not isinstance(file.get("url"), str) or not isinstance(file.get(name), str):
            return None
        url = urljoin(self._base, file["url"])
        key = file_key(url)
        # What is another project's by its name is judged by that one's dates alone; the name is that of the URL, too.
        ours = key and project_of_file(file[name]) == project_of_file(key.rpartition("/")[2]) == self._project
        if not ours:
            return None
        dated = Dated(_version_of(file[name]), parse_time(file.get(date)))
        older = self._files.get(key, dated)
        dated = max(older, dated, key=lambda each: float("inf") if each.published is None else each.published)
        self._files[key] = dated
        if not key.endswith(spelled_in(url)):
            self._spelled[key] = spelled_in(url)
        if not is_old_enough(dated.published, self._registry, self._now):
            return None
        if not self._covered(url):
            self._foreign = self._foreign or urlsplit(url).netloc
            return None
        return {**file, "url": url}

    def filtered(self, body: bytes, kept: int) -> Filtered:
        return Filtered((body,), Dates(self._project, self._files, newest, self._spelled), kept, self._foreign)


def newest(versions: Iterable[str]) -> str:
    """The highest by PEP 440, a pre-release only where there is nothing else; "" of none."""
    return max(versions, key=_order_key, default="")


def _order_key(version: str) -> tuple[bool, bool, Version]:
    try:
        parsed = Version(version)
    except InvalidVersion:
        return (False, False, Version("0"))
    return (True, not parsed.is_prerelease, parsed)


def _version_of(name: str) -> str:
    try:
        if name.endswith(".whl"):
            return str(parse_wheel_filename(name)[1])
        return str(parse_sdist_filename(name)[1])
    except (InvalidWheelFilename, InvalidSdistFilename):
        return ""


def _settle_info(document: dict[str, Any], kept: Mapping[str, object]) -> None:
    """`info` describes the latest version: of one that is not shown nothing but the name is told."""
    info = document.get("info")
    if not isinstance(info, dict) or not kept or info.get("version") in kept:
        return
    document["info"] = {"name": info.get("name"), "version": newest(kept)}
    document["urls"] = kept[newest(kept)]


def _object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        document = json.loads(body, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise MetadataError("its metadata is not JSON that can be read in one way only") from error
    if not isinstance(document, dict):
        raise MetadataError("its metadata is not a JSON object")
    return document


def _anchor(file: Mapping[str, Any]) -> str:
    hashes = file.get("hashes")
    digest = hashes.get("sha256") if isinstance(hashes, dict) else None
    fragment = f"#sha256={digest}" if isinstance(digest, str) else ""
    attributes = [("href", file["url"] + fragment)]
    if isinstance(python := file.get("requires-python"), str):
        attributes.append(("data-requires-python", python))
    if (yanked := file.get("yanked")) not in (None, False):
        attributes.append(("data-yanked", yanked if isinstance(yanked, str) else ""))
    metadata = file.get("core-metadata", file.get("dist-info-metadata"))
    if isinstance(metadata, dict) and isinstance(sha256 := metadata.get("sha256"), str):
        attributes += [("data-core-metadata", f"sha256={sha256}"), ("data-dist-info-metadata", f"sha256={sha256}")]
    elif metadata:
        attributes += [("data-core-metadata", "true"), ("data-dist-info-metadata", "true")]
    written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes)
    return f"<a {written}>{html.escape(file['filename'])}</a><br>"


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
