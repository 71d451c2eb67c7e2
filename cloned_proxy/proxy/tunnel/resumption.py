"""Where a granted CONNECT goes on that was begun elsewhere: what the plane says of it, and the step that is next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.tunnel.connect_tunnel import ConnectTunnel
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


def resume(connect: ConnectTunnel, grant: Grant, at: Resumption, unread: bytes) -> None:
    """In the place of `ConnectTunnel.start`; `unread` is what the client has sent and nobody has used."""
    connect.take_over()
    connect.client.buffer += unread
    connect.begin(grant, partial(_go_on, connect, at))
    if not connect.over:
        connect.client.parts.tunnels.look_at(connect.tunnel)  # what was revoked on the way from there to here


def _go_on(connect: ConnectTunnel, at: Resumption) -> None:
    if at.failure is not None:
        connect.dialled(connect.client.parts.ways.failed(connect.tunnel.grant, at.failure))
        return
    if at.upstream is None:
        raise ValueError("a tunnel goes on without an upstream")
    if at.asked:
        connect.upstream.hear(at.upstream, at.seconds, connect.dial_ended)
        return
    connect.tunnel.established = True
    connect.upstream.connected = at.upstream
    if not at.guarded:
        connect.hello(at.seconds)
        return
    host = connect.tunnel.grant.decision.host
    connect.tunnel.server_names = (host.text,) if host is not None and host.address is None else ()
    connect.begin_watched_relay(0, at.server_bytes)
