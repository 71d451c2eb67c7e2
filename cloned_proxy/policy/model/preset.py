"""A preset: a named set of hosts that somebody looked up, with the page that documents them and the date.

A policy names presets in `use:`; `policy.reading.parse` puts their rules behind the file's own, so that `decide` sees
rules and nothing else. A deny wins over a preset as it does over any allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.terms.rule import HostPattern

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset, read and checked by `policy.reading.read_preset`."""

    name: str
    about: str
    """One line: what it is for."""
    source: str
    """The official page that documents the hosts, or whose settings they were derived from."""
    checked: date
    """When somebody last compared the hosts with the source."""
    allow: tuple[object, ...]
    """Entries as in `allow` of a policy; each scope that uses the preset makes its own rules of them."""
    quiet: tuple[HostPattern, ...]
    """Hosts that the program asks for and does without."""
    version: str
    """The first 12 hex digits of the SHA-256 of its file."""


NO_PRESETS: Final[Mapping[str, Preset | str]] = MappingProxyType({})


def valid_preset_name(text: str) -> bool:
    """Whether the text can name a preset, and its file: at most 64 lower-case letters, digits and dashes."""
    return _NAME.fullmatch(text) is not None


def used_names(document: object) -> tuple[str, ...]:
    """The presets that a policy document names anywhere, before it is known to be valid. Each once, in file order."""
    if not isinstance(document, dict):
        return ()
    tools = document.get("tools")
    scopes = [document.get("global"), *(tools.values() if isinstance(tools, dict) else ())]
    lists = [scope.get("use") for scope in scopes if isinstance(scope, dict)]
    names = [name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)]
    return tuple(dict.fromkeys(names))


def versions_of(presets: Mapping[str, Preset | str], used: Iterable[Iterable[str]]) -> Mapping[str, str]:
    """The version of each preset that is in one of the `used` lists."""
    found = {name: presets.get(name) for names in used for name in names}
    return MappingProxyType({name: preset.version for name, preset in found.items() if isinstance(preset, Preset)})
