"""Listeners that answer for every address there is and write down each byte they get.

One socket a port is enough: inside the namespace every address is local, and a connection knows which one it was
made to. A port speaks TLS, HTTP, SSH or nothing; some addresses misbehave on purpose.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import Final

from tests.net import zone
from tests.net.site import Site
from tests.net.tls_stream import Certificates, Stream, TlsStream

PLAIN_PORTS: Final = (80, 3000, 5432, 6379, 8000, 8080, 9090)
TLS_PORTS: Final = (443, 8443)
SSH_PORTS: Final = (22, 2222)
_KEPT: Final = 1_048_576
"""Bytes kept of each connection; all of them are counted."""
_TLS_HANDSHAKE: Final = 0x16


@dataclass(slots=True, eq=False)
class Contact:
    """One accepted connection: that it exists at all may be the leak."""

    address: str
    port: int
    count: int = 0
    wire: bytearray = field(default_factory=bytearray)
    """As it came, so TLS records where the client spoke TLS."""
    inside: bytearray = field(default_factory=bytearray)
    """What TLS carried."""

    def saw(self, marker: bytes) -> bool:
        return marker in self.wire or marker in self.inside


class _Wire:
    """A socket as a stream that logs what it reads."""

    def __init__(self, connection: socket.socket, contact: Contact, log: list[Contact]) -> None:
        self._connection = connection
        self._contact = contact
        self._log = log

    def recv(self) -> bytes:
        try:
            data = self._connection.recv(262_144)
        except OSError:
            return b""
        if data and self._contact not in self._log:
            # The log was reset since: a connection that a proxy kept is a contact again when something comes over it.
            self._contact.wire.clear()
            self._contact.inside.clear()
            self._contact.count = 0
            self._log.append(self._contact)
        self._contact.count += len(data)
        self._contact.wire += data[: max(0, _KEPT - len(self._contact.wire))]
        return data

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)


class _Logged:
    """A stream that logs what TLS carried."""

    def __init__(self, below: Stream, contact: Contact) -> None:
        self._below = below
        self._contact = contact

    def recv(self) -> bytes:
        data = self._below.recv()
        self._contact.inside += data[: max(0, _KEPT - len(self._contact.inside))]
        return data

    def send(self, data: bytes) -> None:
        self._below.send(data)


class Canaries:
    """All listeners and their common log."""

    def __init__(self, certificates: Certificates, site: Site) -> None:
        self._certificates = certificates
        self._site = site
        self.contacts: list[Contact] = []

    def start(self) -> None:
        for port in (*PLAIN_PORTS, *TLS_PORTS, *SSH_PORTS):
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            connection, _ = listener.accept()
            contact = Contact(_local_address(connection), port)
            self.contacts.append(contact)
            threading.Thread(target=self._serve, args=(connection, contact), daemon=True).start()

    def _serve(self, connection: socket.socket, contact: Contact) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, ValueError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if contact.address in zone.CLOSING:
                return
            wire = _Wire(connection, contact, self.contacts)
            if contact.address in zone.SILENT:
                while wire.recv():
                    pass
            elif contact.port in SSH_PORTS:
                wire.send(b"SSH-2.0-canary\r\n")
                while wire.recv():
                    pass
            elif contact.port in TLS_PORTS and _first_byte(connection) == _TLS_HANDSHAKE:
                trusted = contact.address not in zone.BAD_CERTIFICATE
                tls = TlsStream(wire, self._certificates.front(contact.address, trusted=trusted))
                tls.handshake()
                self._site.serve(_Logged(tls, contact), f"https {contact.address}")
            else:
                self._site.serve(wire, f"http {contact.address}")
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


def _first_byte(connection: socket.socket) -> int:
    """The first byte, left in place: bytes that are not TLS on a TLS port are logged and answered like any others."""
    data = connection.recv(1, socket.MSG_PEEK)
    return data[0] if data else -1


def _local_address(connection: socket.socket) -> str:
    address = ipaddress.IPv6Address(connection.getsockname()[0].partition("%")[0])
    return str(address.ipv4_mapped or address)
