"""Where a granted CONNECT goes on that was begun elsewhere: what the plane says of it, and the step that is next."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Seconds that are left for the client's ClientHello, or for the answer of the proxy in front."""
    asked: bool = False
    """`upstream` is the proxy in front, which was asked for the first target and has not been heard yet."""
    guarded: bool = False
    """The ClientHello has passed and gone upstream."""
    server_bytes: bytes = b""
    """What the upstream has answered to the ClientHello."""


def resume(tunnel: ConnectTunnel, grant: Grant, at: Resumption, unread: bytes) -> None:
    """In the place of `ConnectTunnel.start`; `unread` is what the client has sent and nobody has used."""
    tunnel.take_over()
    tunnel.client.buffer += unread
    tunnel.begin(grant, _go_on, tunnel, at)
    if not tunnel.finished:
        tunnel.client.services.tunnels.look_at(tunnel)  # what was revoked on the way from there to here


def _go_on(tunnel: ConnectTunnel, at: Resumption) -> None:
    if at.failure is not None:
        tunnel.dialled(tunnel.client.services.ways.failed(tunnel.grant, at.failure))
        return
    if at.upstream is None:
        raise ValueError("a tunnel goes on without an upstream")
    if at.asked:
        tunnel.hear(at.upstream, at.seconds)
        return
    tunnel.established = True
    tunnel.upstream = at.upstream
    if not at.guarded:
        tunnel.hello(at.seconds)
        return
    host = tunnel.grant.decision.host
    tunnel.server_names = (host.text,) if host is not None and host.address is None else ()
    tunnel.begin_watched_relay(0, at.server_bytes)
