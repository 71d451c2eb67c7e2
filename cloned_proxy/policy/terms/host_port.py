"""`host:port` as people and protocols write it: an IPv6 address stands in brackets (RFC 3986, section 3.2.2)."""

from __future__ import annotations

from typing import Final

MAX_PORT: Final = 65_535


def in_brackets(host: str) -> str:
    """The host as it stands in a URL and in front of `:port`; one that has its brackets keeps them."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def host_port(host: str, port: int) -> str:
    """`example.com:443`, `[2001:db8::1]:443`."""
    return f"{in_brackets(host)}:{port}"


def split_port(text: str) -> tuple[str, int | None]:
    """`example.com:8443` as host and port; an IPv6 literal with a port stands in brackets. Raises ValueError."""
    scheme, is_url, rest = text.partition("://")
    authority = (rest if is_url else scheme).partition("/")[0]
    if "@" in authority:  # not quoted: what stands before it may be a password, and messages go on record
        raise ValueError(f"nothing may stand before a host, as with '@'; write {authority.rpartition('@')[2]}")
    if is_url:  # what people paste first
        raise ValueError(f"{text!r} is a URL; write the host alone: {authority}")
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not HOST:PORT; write an IPv6 address with a port as [2001:db8::1]:443")
        port = rest[1:]
        if rest == ":":
            raise ValueError(f"{text!r} ends in a colon without a port; write the port or leave the colon out")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r} ends in a colon without a port; write the port or leave the colon out")
    if not port:
        return host, None
    # `isdecimal` alone would accept other scripts' digits, which `int` reads as well.
    if not (port.isascii() and port.isdecimal()) or int(port) > MAX_PORT:
        raise ValueError(f"{text!r}: {port!r} is not a port; those are 1 to {MAX_PORT}")
    return host, int(port)
