"""Where a proxy in front is."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from cloned_proxy.policy.host import parse_host
from cloned_proxy.policy.rule import Host


class Place(NamedTuple):
    host: Host
    port: int
    secure: bool
    """The way to the proxy itself is TLS."""


def place_of(url: str) -> Place:
    """Of `http(s)://HOST:PORT`. Raises ValueError (HostError is one)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ValueError("not the URL of an HTTP proxy")
    return Place(parse_host(parts.hostname), parts.port, parts.scheme == "https")
