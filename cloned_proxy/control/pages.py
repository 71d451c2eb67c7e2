"""The pages and their static files, read once at the start: a request names one of them or nothing."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).with_name("static")
INDEX: Final = "index.html"
PAIR: Final = "pair.html"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
"""The machine's own table of types may say anything, and with `nosniff` a browser believes it."""
_REFERENCE: Final = re.compile(r"""["'(](?:/static/|\./)([A-Za-z0-9_./-]+)["')]""")


@dataclass(frozen=True, slots=True)
class Page:
    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Pages:
    """All files by their name below `static`."""

    files: Mapping[str, Page]
    public: frozenset[str]
    """What the pairing page is made of: all that a browser may have which is not paired."""

    @classmethod
    def load(cls, directory: Path = STATIC) -> Pages:
        files = {
            path.relative_to(directory).as_posix(): Page(path.read_bytes(), _type_of(path))
            for path in sorted(directory.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        return cls(files, _reachable(files, PAIR))


def _type_of(path: Path) -> str:
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _reachable(files: Mapping[str, Page], start: str) -> frozenset[str]:
    """The page and what it names, and what that names."""
    found: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in found or name not in files:
            continue
        found.add(name)
        if files[name].media_type.startswith("text/"):
            todo += _REFERENCE.findall(files[name].content.decode(errors="replace"))
    return frozenset(found - {INDEX})
