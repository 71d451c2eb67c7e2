"""Which package a path of a registry names, and what of it: pure.

Every spelling of a path is brought to one: the proxy asks upstream for that one, so that no server can read another
package out of what was judged here. What has no place in the grammar below is refused, not guessed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

from cloned_proxy.policy.terms.registry import Registry, RegistryKind, canonical_project, is_npm_name
from cloned_proxy.policy.terms.rule import Rule

_TARGET: Final = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,=:@/]|%[0-9A-Fa-f]{2})*")
_DECODED: Final = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,=:@/]*")
_PROJECT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_FILE_SUFFIXES: Final = (".tgz", ".tar.gz", ".tar", ".zip", ".whl")
_NPM_API: Final = frozenset({"ping", "whoami", "v1", "npm", "user", "org", "team", "package"})
"""What of `/-/` holds no code: search, audit, log-in, tags."""
_BESIDE_FILES: Final = (".metadata", ".asc", ".provenance")
"""PEP 658, the signatures of old, PEP 740: each is as old as its file."""


class PackagePart(enum.Enum):
    METADATA = "metadata"
    """The metadata of one package."""
    FILE = "file"
    API = "api"
    """Holds neither: it passes as it is."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Target:
    part: PackagePart
    package: str = ""
    """Canonical; "" where the path names none."""
    path: str = ""
    """Percent-encoding removed: of a FILE without what is `beside` it."""
    version: str = ""
    """Metadata of this version (or npm tag) alone."""
    whole: bool = False
    """PyPI's per-project JSON instead of the simple API."""
    beside: str = ""
    """`.metadata` and the like, behind the path of the file."""


UNKNOWN: Final = Target(PackagePart.UNKNOWN)
_API: Final = Target(PackagePart.API)


def target_of(registry: Registry, path: str) -> Target:
    """What an origin-form target (path and query) asks a registry for."""
    plain = plain_path(path)
    if plain is None:
        return UNKNOWN
    return _npm(registry.index, plain) if registry.kind is RegistryKind.NPM else _pypi(registry.index, plain)


def package_of(registry: Registry, path: str | None) -> str:
    """The canonical name of the package that a path names, "" for none."""
    return "" if path is None else target_of(registry, path).package


def preferred(rules: Iterable[Rule], path: str | None) -> Rule | None:
    """The rule with `registry` that judges a request for `path`, of the rules that allow it; None when none has it.

    A rule without `registry` beside one that has it opens nothing more: an age limit that any broad rule takes away
    would protect nobody. What exempts the package comes first, then the shortest age, then what lasts.
    """
    dated = [(rule, rule.registry) for rule in rules if rule.registry is not None]

    def order(item: tuple[Rule, Registry]) -> tuple[bool, float, bool]:
        rule, registry = item
        exempt = registry.exempts(package_of(registry, path))
        return (not exempt, 0.0 if exempt else registry.min_age, rule.is_lease)

    return min(dated, key=order)[0] if dated else None


def plain_path(target: str) -> str | None:
    """The path without its percent-encoding and query; None when two readers could read it differently."""
    path = target.partition("?")[0]
    if _TARGET.fullmatch(path) is None:
        return None
    decoded = unquote(path, errors="surrogateescape")
    if _DECODED.fullmatch(decoded) is None or "//" in decoded or not {".", ".."}.isdisjoint(decoded.split("/")):
        return None
    return decoded


def metadata_path(registry: Registry, package: str) -> str:
    """Where the metadata of a package is, as it is asked for upstream."""
    if registry.kind is RegistryKind.NPM:
        return registry.index + quote(package, safe="@")  # `@scope%2Fname`, as npm's own client asks
    return f"{registry.index}{package}/"


def project_json_path(registry: Registry, package: str) -> str:
    """PyPI's per-project JSON, which lies beside the simple API."""
    return f"{_parent(registry.index)}pypi/{package}/json"


def _npm(index: str, path: str) -> Target:
    parts = path[len(index) :].rstrip("/").split("/") if path.startswith(index) else []
    if parts[:1] in ([""], ["-"]):
        known = len(parts) == 1 or (parts[1] in _NPM_API and not parts[-1].lower().endswith(_FILE_SUFFIXES))
        return _API if known else UNKNOWN
    return _npm_package(path, parts) if parts else _npm_file(path, path.split("/")[1:])


def _npm_package(path: str, parts: list[str]) -> Target:
    """Below the index: `NAME`, `NAME/VERSION` and `NAME/-/FILE`."""
    count = 2 if parts[0].startswith("@") else 1
    package, rest = "/".join(parts[:count]), parts[count:]
    if not is_npm_name(package) or (count == 2) != ("/" in package):  # noqa: PLR2004  a scope and a name
        return UNKNOWN
    if not rest:
        return Target(PackagePart.METADATA, package)
    if rest[0] == "-":
        return Target(PackagePart.FILE, package, path) if len(rest) > 1 else UNKNOWN
    return Target(PackagePart.METADATA, package, version=rest[0]) if len(rest) == 1 else UNKNOWN


def _npm_file(path: str, parts: list[str]) -> Target:
    """`…/NAME/-/FILE` and `…/@SCOPE/NAME/-/FILE`, wherever they begin."""
    if parts.count("-") != 1 or (at := parts.index("-")) in (0, len(parts) - 1):
        return UNKNOWN
    scoped = at > 1 and parts[at - 2].startswith("@")
    package = "/".join(parts[at - 2 : at] if scoped else parts[at - 1 : at])
    return Target(PackagePart.FILE, package, path) if is_npm_name(package) else UNKNOWN


def _pypi(index: str, path: str) -> Target:
    if path.rstrip("/") == index.rstrip("/"):
        return _API  # the names of all projects
    if path.startswith(index) and (parts := path[len(index) :].rstrip("/").split("/")) and len(parts) == 1:
        return _project(parts[0])
    parent = _parent(index)
    parts = path[len(parent) :].split("/") if path.startswith(parent) else []
    match parts:
        case ["pypi", name, "json"]:
            return _project(name, whole=True)
        case ["pypi", name, version, "json"]:
            return _project(name, version=version, whole=True)
        case ["pypi" | "pypi/"] | ["legacy"] | ["legacy", ""] | ["integrity", _, _, _, "provenance"]:
            return _API
        case _:
            return pypi_file(path)


def _project(name: str, *, version: str = "", whole: bool = False) -> Target:
    if _PROJECT.fullmatch(name) is None:
        return UNKNOWN
    return Target(PackagePart.METADATA, canonical_project(name), version=version, whole=whole)


def pypi_file(path: str) -> Target:
    """A wheel or a source distribution by its name, wherever it lies."""
    beside = next((suffix for suffix in _BESIDE_FILES if path.endswith(suffix)), "")
    path = path.removesuffix(beside)
    package = project_of_file(path.rpartition("/")[2])
    return Target(PackagePart.FILE, package, path, beside=beside) if package else UNKNOWN


def project_of_file(name: str) -> str:
    """The canonical project whose file has this name, "" when it is no wheel and no sdist."""
    try:
        found = parse_wheel_filename(name)[0] if name.endswith(".whl") else parse_sdist_filename(name)[0]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return ""
    return str(found)


def _parent(index: str) -> str:
    return index.rstrip("/").rpartition("/")[0] + "/"
