"""Our own listening sockets, the principals they carry, and how a dial to one of them is recognised."""

from __future__ import annotations

import errno
import ipaddress
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.transport.name_tags import NameTags

if TYPE_CHECKING:
    import asyncio

    from cloned_proxy.store.settings.listen_settings import (
        Network,  # at run time it would bring pydantic to every `explain`
    )

BACKLOG: Final = 4096
_OWNER_ONLY: Final = 0o600


class BindError(Exception):
    """A listener that cannot be opened; the message names it and says what to do."""


class BadAddressError(BindError):
    """The address itself is at fault: it cannot be listened on whatever else runs on this machine."""


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A bound socket and whoever connects to it: a tool's principal, ANONYMOUS, or None (credentials only)."""

    socket: socket.socket
    principal: Principal | None
    name: str
    """For the log: `127.0.0.1:8081`, `slot 3f2a`."""
    names: NameTags | None = None
    """What its callers dialled, by the address at which they arrive; None where everybody asks a proxy."""
    only_names: bool = False
    """Nobody asks a proxy here."""
    header_from: tuple[Network, ...] = ()
    """From there each connection begins with a PROXY protocol header (`proxy/gate/porch.py`)."""

    def __post_init__(self) -> None:
        """Urgent data is data like any other (RFC 6093, section 6), on every connection that is accepted there.

        Else a client could keep its place with bytes that no read and no count of what is unread ever shows.
        """
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def asks_proxy(self, address: str) -> bool:
        """Whether a connection to this address of ours is for the proxy itself, not for a name."""
        if self.names is None or self.only_names:
            return self.names is None
        return ipaddress.IPv4Address(address) not in self.names.network

    @property
    def party(self) -> object:
        """Who shares one share of the places: the listeners of one run are one party."""
        return self if self.principal is None or self.principal.run is None else self.principal


def names_listener(transport: asyncio.BaseTransport, host: str, port: int) -> bool:
    """Whether the client of a connection may call the proxy `host:port`.

    On loopback that is the address that it came to, or `localhost`. Elsewhere any name can be one that leads here.
    """
    match transport.get_extra_info("sockname"):
        case (str(address), int(own), *_) if own == port:
            try:
                return plain_address(ipaddress.ip_address(host)) == plain_address(ipaddress.ip_address(address))
            except ValueError:
                return host.lower() == "localhost" or not ipaddress.ip_address(address).is_loopback
        case _:
            return False


def bind_tcp(host: str, port: int) -> socket.socket:
    """A bound, listening socket. `host` is an address or `localhost`. Raises BindError."""
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
    except OSError as error:
        raise BadAddressError(f"{where} is not an address of this machine: {error.strerror}") from error
    # The protocol is spelled out because asyncio sets TCP_NODELAY only where it reads "TCP" there.
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One socket, one family: whoever binds [::] has not asked for 0.0.0.0.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BindError(_tcp_problem(where, error)) from error
    return sock


def _tcp_problem(where: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use; stop the program that listens there or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{where} is not permitted for this user; choose a port from 1024 on"
    return f"{where} cannot be opened: {error.strerror}"


def bind_unix(path: Path) -> socket.socket:
    """A bound, listening socket at `path`, mode 0600. Replaces the stale socket of a dead process. Raises BindError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _clear_stale(path)
        sock.bind(str(path))
        # Nobody can connect between bind and listen, so there is no moment at which the mode is wider.
        path.chmod(_OWNER_ONLY)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BindError(f"{path} cannot be opened: {error.strerror or error}") from error
    except BindError:
        sock.close()
        raise
    return sock


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"{path} exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise BindError(f"{path} is in use by another process; stop it or choose another path")


class OwnListeners:
    """A container of (address, port): whether a dial there would reach one of this process's listeners."""

    def __init__(self) -> None:
        self._bound: set[tuple[Address, int]] = set()
        self._wildcard_ports: set[int] = set()
        self._ports: set[int] = set()
        """All of them: most dials go to another port, and need not be looked at more closely."""
        self._added = 0

    def add(self, sock: socket.socket) -> None:
        """Registers a bound socket; unix sockets cannot be dialled through the proxy and are left out."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self.add_address(*sock.getsockname()[:2])

    def add_address(self, host: str, port: int) -> None:
        """Registers a place where another part of this process listens. `host` is an IP address."""
        address = plain_address(ipaddress.ip_address(host))
        if address.is_unspecified:
            self._wildcard_ports.add(port)
        else:
            self._bound.add((address, port))
        self._ports.add(port)
        self._added += 1

    def __len__(self) -> int:
        """How many were registered so far."""
        return self._added

    def __contains__(self, item: object) -> bool:
        match item:
            case (ipaddress.IPv4Address() | ipaddress.IPv6Address() as address, int(port)):
                return port in self._ports and self._reaches(plain_address(address), port)
            case _:
                return False

    def _reaches(self, address: Address, port: int) -> bool:
        if (address, port) in self._bound:
            return True
        if address.is_unspecified:  # the kernel connects 0.0.0.0 and :: to this machine
            return port in self._wildcard_ports or any(port == bound for _, bound in self._bound)
        return port in self._wildcard_ports and _is_local(address)


def plain_address(address: Address) -> Address:
    """IPv4 for its mapped form, and without a zone: spellings of one socket address."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def _is_local(address: Address) -> bool:
    """Whether the address is this machine's: only those can be bound. When in doubt, yes."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004  the IP version
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
