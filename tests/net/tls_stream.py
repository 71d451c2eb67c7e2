"""TLS for the canaries, over memory: every byte is logged before TLS may refuse it."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Final, Protocol

import trustme

_CHUNK: Final = 262_144
UNNAMED: Final = "no-server-name.invalid"


class Stream(Protocol):
    """Bytes in both directions; `recv` returns b"" at the end."""

    def recv(self) -> bytes: ...
    def send(self, data: bytes) -> None: ...


class Certificates:
    """A throw-away CA that vouches for any name a client asks for: a wrong server name must be refused by the proxy,
    not happen to fail for want of a certificate."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._untrusted = trustme.CA()
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self.pem = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.pem)

    def context(self, name: str, *, trusted: bool) -> ssl.SSLContext:
        with self._lock:
            found = self._contexts.get((name, trusted))
            if found is None:
                found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                found.set_alpn_protocols(["http/1.1"])
                (self._ca if trusted else self._untrusted).issue_cert(name).configure_cert(found)
                self._contexts[name, trusted] = found
        return found

    def front(self, address: str, *, trusted: bool) -> ssl.SSLContext:
        """The context a connection starts with; the certificate follows the server name, or the address."""

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            if name:
                connection.context = self.context(name, trusted=trusted)

        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.set_alpn_protocols(["http/1.1"])
        issuer = self._ca if trusted else self._untrusted
        with self._lock:
            key = (f"front {address}", trusted)
            if key in self._contexts:
                return self._contexts[key]
            issuer.issue_cert(address, UNNAMED).configure_cert(front)
            front.sni_callback = choose
            self._contexts[key] = front
        return front


class TlsStream:
    """Server side of TLS over another stream."""

    def __init__(self, below: Stream, context: ssl.SSLContext) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self) -> None:
        """Raises ssl.SSLError or OSError when there is none."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            else:
                self._flush()
                return

    def recv(self) -> bytes:
        while True:
            try:
                return self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def _feed(self) -> None:
        data = self._below.recv()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.send(self._outgoing.read())
