"""`HOST:PORT` as it stands on a command line."""

from __future__ import annotations

from cloned_proxy.policy.terms.host_port import split_port


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
