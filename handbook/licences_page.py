"""docs/licences.md: what comes along with the program, and under which licences."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from handbook.reference import intro, table
from handbook.site import ROOT

_EXTRAS: Final = ("fleet", "keyring", "otlp", "pac")


def licences_page() -> str:
    """The page as it should be."""
    always = set(needed(""))
    rows = [_row(name, "") for name in sorted(always)]
    of_extra: dict[str, list[str]] = {}
    for extra in _EXTRAS:
        for name in set(needed(extra)) - always:
            of_extra.setdefault(name, []).append(extra)
    rows += [_row(name, ", ".join(extras)) for name, extras in sorted(of_extra.items())]
    return f"{intro('licences')}\n{table(('Package', 'Version', 'Licence', 'Extra'), rows)}"


def needed(extra: str) -> Iterator[str]:
    """The packages that come along with one extra of ours, "" for none, as they are installed here."""
    seen: set[tuple[str, str]] = set()
    waiting = [("cloned-proxy", extra)]
    while waiting:
        name, wanted = waiting.pop()
        for line in importlib.metadata.requires(name) or ():
            one = Requirement(line)
            if one.marker is not None and not one.marker.evaluate({"extra": wanted}):
                continue
            for asked in ("", *sorted(one.extras)):
                found = (str(canonicalize_name(one.name)), asked)
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)
                    yield found[0]


def _row(name: str, extra: str) -> tuple[str, ...]:
    return name, importlib.metadata.version(name), _sbom().licence_of(name), extra


def _sbom() -> ModuleType:
    """packaging/sbom.py: its folder has the name of a package of others."""
    place = importlib.util.spec_from_file_location("sbom", ROOT / "packaging" / "sbom.py")
    assert place is not None  # noqa: S101  a file that is there
    assert place.loader is not None  # noqa: S101  as above
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module
