"""Where this machine's own apt has its packages from: images are built from the same mirror."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import EngineError
from cloned_proxy.share import share_path

_DEBIAN_RELEASE: Final = "trixie"
"""New enough for every tool in the image. Elsewhere (Ubuntu) the release is the machine's own."""
_ONE_LINE: Final = re.compile(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)$")


@dataclass(frozen=True, slots=True)
class Mirror:
    uri: str
    suite: str


def mirrors(texts: Iterable[str]) -> list[Mirror]:
    """The `deb` entries of apt source files, one-line and deb822 (sources.list(5)), that carry `main`, in order."""
    found: list[Mirror] = []
    for text in texts:
        found += [
            Mirror(match[1], match[2])
            for line in text.splitlines()
            if (match := _ONE_LINE.match(line.strip())) and "main" in match[3].split()
        ]
        found += _deb822(text)
    return found


def _deb822(text: str) -> list[Mirror]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            name.strip().lower(): value.split()
            for name, _, value in (line.partition(":") for line in stanza.splitlines() if not line.startswith("#"))
        }
        if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
            found += [Mirror(uri, suite) for uri in fields.get("uris", []) for suite in fields.get("suites", [])]
    return found


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def default_release() -> str:
    """The release that images are of; empty on a machine that does not say what it is."""
    facts = _os_release()
    return _DEBIAN_RELEASE if facts.get("ID") == "debian" else facts.get("VERSION_CODENAME", "")


def mirror_uri() -> str:
    """The mirror of this machine's release. Raises EngineError when its sources name none."""
    apt = Path("/etc/apt")
    files = [
        apt / "sources.list",
        *sorted(apt.glob("sources.list.d/*.list")),
        *sorted(apt.glob("sources.list.d/*.sources")),
    ]
    codename = _os_release().get("VERSION_CODENAME", "")
    for mirror in mirrors(file.read_text(encoding="utf-8") for file in files if file.is_file()):
        if mirror.suite == codename:
            return mirror.uri
    raise EngineError(
        "apt's sources name no mirror of this machine's release: build from a registry with "
        f"`docker build --target worker -t {PYTHON_IMAGE} {share_path('sandbox')}`, and --target holder alike"
    )
