"""`HOST:PORT` as it stands on a command line."""

from __future__ import annotations

from typing import Final

_MAX_PORT: Final = 65_535


def parse_listen(text: str, option: str) -> tuple[str, int] | None:
    """The address to listen on, None for `off`. Port 0 lets the system choose. Raises ValueError with the fix."""
    if text == "off":
        return None
    try:
        host, port = split_port(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    if not host or port is None:
        raise ValueError(f"{option} {text!r} is not an address; write HOST:PORT such as 127.0.0.1:8081")
    return host, port


def split_port(text: str) -> tuple[str, int | None]:
    """`example.com:8443` as host and port; an IPv6 literal with a port stands in brackets. Raises ValueError."""
    if "://" in text:  # what people paste first
        raise ValueError(f"{text!r} is a URL; write the host alone: {text.partition('://')[2].partition('/')[0]}")
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
    if not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r}: {port!r} is not a port; use a number from 0 to {_MAX_PORT}")
    return host, int(port)
