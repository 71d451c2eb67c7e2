"""What a descriptor that a runner hands over must be, before anything is done with it. Each raises SlotProtocolError.

Whoever may hand one over may already do everything this user may, but a mistake must not turn into an open port.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from cloned_proxy.local.slot_protocol import SlotProtocolError

_SO_NETNS_COOKIE: Final = 71
"""socket(7), since Linux 5.14: a number for the network namespace that the socket belongs to for ever."""
_COOKIE_BYTES: Final = 8
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_DNS_PORT: Final = 53


def check_listening(sock: socket.socket, *, anywhere: bool = False) -> None:
    """A listening stream socket on loopback or of a path; `anywhere` inside a slot it may be on all addresses."""
    _check_kind(sock, socket.SOCK_STREAM)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise SlotProtocolError("a descriptor that is not a listening stream socket")
    if sock.family == socket.AF_UNIX:
        return
    if sock.family == socket.AF_INET and _address(sock) in _LOOPBACK:
        return
    if not anywhere:
        raise SlotProtocolError("a slot listens on loopback or on a unix socket, nowhere else")
    check_inside(sock)


def check_name_server(sock: socket.socket, kind: socket.SocketKind) -> None:
    """On 127.0.0.1:53 inside a slot."""
    _check_kind(sock, kind)
    if sock.family != socket.AF_INET or sock.getsockname() != ("127.0.0.1", _DNS_PORT):
        raise SlotProtocolError("a name server's socket that is not on 127.0.0.1:53")
    check_inside(sock)


def check_steered(sock: socket.socket, network: IPv4Network) -> None:
    """The one socket that gets the connections to every port of `network`."""
    _check_kind(sock, socket.SOCK_STREAM)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_INET or not listening or _address(sock) not in network:
        raise SlotProtocolError(f"a steered socket that does not listen in {network}")
    check_inside(sock)


def check_spare(sock: socket.socket) -> None:
    """A TCP socket that is not bound to anything."""
    _check_kind(sock, socket.SOCK_STREAM)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_INET or listening or sock.getsockname() != ("0.0.0.0", 0):  # noqa: S104  it is not bound
        raise SlotProtocolError("a spare socket that is not an unbound TCP one")
    check_inside(sock)


def check_inside(sock: socket.socket) -> None:
    """A socket of another network namespace than this process's: what is bound to it opens nothing on this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        try:
            same = _namespace(sock) == _namespace(own)
        except OSError as error:
            raise SlotProtocolError(
                "this kernel cannot tell namespaces apart (Linux 5.14 can); see `doctor`"
            ) from error
    if same:
        raise SlotProtocolError("a socket of this host's own network; a slot has a namespace of its own")


def knows_namespaces() -> bool:
    """Whether `check_inside` can work here."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        try:
            _namespace(own)
        except OSError:
            return False
    return True


def _namespace(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES)


def _address(sock: socket.socket) -> IPv4Address:
    return IPv4Address(sock.getsockname()[0])


def _check_kind(sock: socket.socket, kind: socket.SocketKind) -> None:
    if sock.type != kind:
        raise SlotProtocolError(f"a descriptor that is not a {kind.name} socket")
