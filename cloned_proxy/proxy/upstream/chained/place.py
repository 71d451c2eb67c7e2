"""Where a proxy in front is."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from cloned_proxy.policy.terms.host import parse_host
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file

_MAX_BYTES: Final = 1_048_576
_LITERAL: Final = re.compile(r"""(?:\b(PROXY|HTTPS?)\s+|["'])(\[[0-9A-Fa-f:.]+\]:\d+|[\w.-]+:\d+)""", re.IGNORECASE)


class Place(NamedTuple):
    host: Host
    port: int
    secure: bool
    """The way to the proxy itself is TLS."""


def place_of(url: str) -> Place:
    """The place that `http(s)://HOST:PORT` names. Raises ValueError (HostError is one)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ValueError("not the URL of an HTTP proxy")
    return Place(parse_host(parts.hostname), parts.port, parts.scheme == "https")


def read_pac(path: Path) -> str:
    """The text of a PAC file. Raises StoreError."""
    try:
        return read_regular_file(path, limit=_MAX_BYTES, what="PAC file").decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"upstream.pac: {path} is not UTF-8") from error


def places_named_in(text: str) -> tuple[Place, ...]:
    """The proxies that the text of a PAC file names: `HOST:PORT` behind a keyword, or as a string of its own.

    A name that the program puts together is not among them.
    """
    found = []
    for match in _LITERAL.finditer(text):
        with contextlib.suppress(ValueError):
            found.append(place_of(f"{'https' if (match[1] or '').upper() == 'HTTPS' else 'http'}://{match[2]}"))
    return tuple(found)
