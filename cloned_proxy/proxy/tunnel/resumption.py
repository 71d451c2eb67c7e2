"""Where a granted CONNECT goes on that was begun elsewhere: what the native plane says of it to `Passage.resume`."""

from __future__ import annotations

from dataclasses import dataclass
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name

from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError


@dataclass(frozen=True, slots=True)
class Resumption:
    """The dial has failed, or the proxy in front was asked, or the client was told the 200."""

    upstream: Socket | None = None
    failure: DialError | ExhaustedError | None = None
    seconds: float = 0.0
    """What is left of the time for its ClientHello, or for the answer of the proxy in front."""
    asked: bool = False
    """`upstream` is the proxy in front, which was asked for the first target and has not been heard yet."""
    guarded: bool = False
    """The ClientHello has passed and gone upstream."""
    server_bytes: bytes = b""
    """What the upstream has said to that."""
