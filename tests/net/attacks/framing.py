"""Attacks on how a request is written, in clear and inside an opened tunnel: what two readers could read in two ways."""
# ruff: noqa: E501  one request a line, as it goes over the wire

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.net.attacks.attempt import Attack, Attempt, read_all, read_some

_DENIED: Final = "evil.example.net"


@dataclass(frozen=True, slots=True)
class _Form:
    """A request with `$M` for the marker."""

    name: str
    wire: bytes
    contacts: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("gate", "inspected")


_GET: Final = b"GET http://api.example.com/$M HTTP/1.1\r\n"
_HOST: Final = b"Host: api.example.com\r\n"
_INNER: Final = b"GET http://evil.example.net/$M HTTP/1.1\r\nHost: evil.example.net\r\nConnection: close\r\n\r\n"
_POST: Final = b"POST http://api.example.com/$M HTTP/1.1\r\nHost: api.example.com\r\n"
_TO_DENIED: Final = ((_DENIED, 80), (_DENIED, 443))

_FORMS: Final = (
    _Form("two Hosts", _GET + _HOST + b"Host: evil.example.net\r\n\r\n"),
    _Form("two Hosts, the foreign one first", _GET + b"Host: evil.example.net\r\n" + _HOST + b"\r\n"),
    _Form("the same Host twice", _GET + _HOST + _HOST + b"\r\n"),
    _Form("a Host that is not the target", _GET + b"Host: evil.example.net\r\n\r\n"),
    _Form("a Host on another port", _GET + b"Host: api.example.com:8080\r\n\r\n"),
    _Form("a Host with userinfo", _GET + b"Host: x@api.example.com\r\n\r\n"),
    _Form("a list in Host", _GET + b"Host: api.example.com, evil.example.net\r\n\r\n"),
    _Form("no Host", _GET + b"\r\n"),
    _Form("an empty Host", _GET + b"Host:\r\n\r\n"),
    _Form("a denied target behind an allowed Host", b"GET http://evil.example.net/$M HTTP/1.1\r\n" + _HOST + b"\r\n", _TO_DENIED, (_DENIED,)),
    _Form("origin form", b"GET /$M HTTP/1.1\r\n" + _HOST + b"\r\n", paths=("gate",)),  # inside, it is the right one
    _Form("origin form with two slashes", b"GET //evil.example.net/$M HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("asterisk form", b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"X: $M\r\n\r\n"),
    _Form("authority form without CONNECT", b"GET api.example.com:80 HTTP/1.1\r\n" + _HOST + b"X: $M\r\n\r\n"),
    # Inside, it is right: RFC 9112, section 3.2.2.
    _Form("the https scheme", b"GET https://api.example.com/$M HTTP/1.1\r\n" + _HOST + b"\r\n", paths=("gate",)),
    _Form("the ftp scheme", b"GET ftp://api.example.com/$M HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("the file scheme", b"GET file:///etc/passwd HTTP/1.1\r\nHost:\r\nX: $M\r\n\r\n"),
    _Form("the gopher scheme", b"GET gopher://api.example.com:6379/$M HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("a lower-case CONNECT", b"connect api.example.com:443 HTTP/1.1\r\n" + _HOST + b"\r\n$M"),
    _Form("a space in the target", b"GET http://api.example.com/ $M HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("two spaces in the request line", b"GET  http://api.example.com/$M HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("a tab in the request line", b"GET\thttp://api.example.com/$M HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("bare CR in the target", b"GET http://api.example.com/$M\rx HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("a NUL in the target", b"GET http://api.example.com/$M\0x HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _Form("HTTP/9.9", b"GET http://api.example.com/$M HTTP/9.9\r\n" + _HOST + b"\r\n"),
    _Form("HTTP/2.0 in a request line", b"GET http://api.example.com/$M HTTP/2.0\r\n" + _HOST + b"\r\n"),
    _Form("HTTP/0.9", b"GET http://api.example.com/$M\r\n\r\n"),
    _Form("a lower-case version", b"GET http://api.example.com/$M http/1.1\r\n" + _HOST + b"\r\n"),
    _Form("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n$M"),
    _Form("bare LF everywhere", b"GET http://api.example.com/$M HTTP/1.1\nHost: api.example.com\n\n"),
    _Form("one bare LF", _GET + b"Host: api.example.com\nX: y\r\n\r\n"),
    _Form("a bare LF before the end", _GET + _HOST + b"X: y\n\r\n"),
    _Form("bare CR in a value", _GET + _HOST + b"X: a\rEvil: b\r\n\r\n"),
    _Form("a NUL in a value", _GET + _HOST + b"X: a\0b\r\n\r\n"),
    _Form("obs-fold", _GET + _HOST + b"X: a\r\n b\r\n\r\n"),
    _Form("obs-fold in the first field", _GET + b" Host: evil.example.net\r\n" + _HOST + b"\r\n"),
    _Form("a space before the colon", _GET + _HOST + b"X : a\r\n\r\n"),
    _Form("a field without a name", _GET + _HOST + b": a\r\n\r\n"),
    _Form("a field without a colon", _GET + _HOST + b"nothing\r\n\r\n"),
    _Form("a field name with brackets", _GET + _HOST + b"X(y): a\r\n\r\n"),
    _Form("Content-Length beside Transfer-Encoding", _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("Transfer-Encoding beside Content-Length", _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n0\r\n\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("two Content-Lengths", _POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("the same Content-Length twice", _POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    _Form("a Content-Length list", _POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    _Form("a signed Content-Length", _POST + b"Content-Length: +5\r\n\r\nhello"),
    _Form("a negative Content-Length", _POST + b"Content-Length: -1\r\n\r\n"),
    _Form("a Content-Length in hex", _POST + b"Content-Length: 0x5\r\n\r\nhello"),
    _Form("a Content-Length with an underscore", _POST + b"Content-Length: 1_0\r\n\r\n0123456789"),
    _Form("a Content-Length of Arabic digits", _POST + "Content-Length: \u0665\r\n\r\nhello".encode()),
    _Form("a Content-Length without digits", _POST + b"Content-Length:\r\n\r\n"),
    _Form("an unknown transfer coding", _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    _Form("chunked twice", _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    _Form("chunked in two fields", _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    _Form("a misspelt chunked", _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("chunked after a vertical tab", _POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    _Form("chunked behind a space before the colon", _POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("chunked in HTTP/1.0", _POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    _Form("a pipelined request for a denied host", _GET.replace(b"$M", b"first") + _HOST + b"\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("a denied request behind a body", b"POST http://api.example.com/first HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\n\r\nhello" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("a denied request behind a chunked body", b"POST http://api.example.com/first HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("a denied request behind chunks with padded sizes", b"POST http://api.example.com/first HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n0005   \r\nhello\r\n000   \r\n\r\n" + _INNER, _TO_DENIED, (_DENIED,)),
    _Form("an upgrade to HTTP/2 in clear", _GET.replace(b"$M", b"h2c") + _HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: $M\r\n\r\n"),
)  # fmt: skip

# Bodies of an otherwise good request: the head may pass, the marker behind the fault may not.
_CHUNKS: Final = (
    ("a chunk size in no hex", b"xyz\r\n$M\r\n0\r\n\r\n"),
    ("a negative chunk size", b"-20\r\n$M\r\n0\r\n\r\n"),
    ("a chunk size with 0x", b"0x20\r\n$M\r\n0\r\n\r\n"),
    ("a chunk size with an underscore", b"2_0\r\n$M\r\n0\r\n\r\n"),
    ("a chunk longer than it says", b"2\r\n$M\r\n0\r\n\r\n"),
)

_CHUNKED: Final = (
    b"POST http://api.example.com/first HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _plain(attempt: Attempt, *wires: bytes) -> None:
    attempt.send(*wires, wait_for=b"200 OK")


def _inside(attempt: Attempt, *wires: bytes) -> None:
    """The same in a tunnel that the proxy opens, where a request to an origin has the origin form."""
    with attempt.tls("api.example.com:443", "api.example.com") as secure:
        for wire in wires:
            secure.sendall(wire.replace(b" http://api.example.com/", b" /"))
            if wire is not wires[-1]:
                read_some(secure)
        read_all(secure)


type _Way = Callable[..., None]


def _send(way: _Way, wire: bytes) -> Callable[[Attempt], None]:
    def act(attempt: Attempt) -> None:
        way(attempt, wire.replace(b"$M", attempt.marker.encode()))

    return act


def _second_request(way: _Way) -> Callable[[Attempt], None]:
    """A permitted request, its answer, and then a denied one on the same connection."""

    def act(attempt: Attempt) -> None:
        first = _GET.replace(b"$M", b"first") + _HOST + b"\r\n"
        way(attempt, first, _INNER.replace(b"$M", attempt.marker.encode()))

    return act


def _body_behind_a_timeout(attempt: Attempt) -> None:
    """A request whose upstream says nothing, the proxy's own answer, and then one with a request for a body.

    The first body is as long as the second head: thrown away once more, it takes that head with it.
    """
    smuggled = f"GET http://api.example.com/{attempt.marker} HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
    second = (
        f"POST http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\nContent-Length: {len(smuggled)}\r\n\r\n"
    )
    first = (
        f"POST http://silent.example.com/ HTTP/1.1\r\nHost: silent.example.com\r\nContent-Length: {len(second)}\r\n\r\n"
    )
    with attempt.connection() as connection:
        connection.settimeout(10.0)  # more than the proxy's own patience with an upstream
        connection.sendall(first.encode() + b"x" * len(second))
        if b" 504 " in read_some(connection):
            connection.settimeout(attempt.patience)
            connection.sendall((second + smuggled).encode())
            read_all(connection)


_HUGE: Final = _GET + _HOST + (b"X-Filler: " + b"y" * 1000 + b"\r\n") * 1000 + b"\r\n"
_MANY: Final = _GET + _HOST + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n"


def _attacks(path: str, way: _Way, before: str = "") -> Iterator[Attack]:
    for form in _FORMS:
        if path in form.paths:
            yield Attack(before + form.name, _send(way, form.wire), form.contacts, form.names, paths=(path,))
    for name, wire in (
        *((name, _CHUNKED + body) for name, body in _CHUNKS),
        ("a head of a megabyte", _HUGE),
        ("a head of 5000 fields", _MANY),
    ):
        yield Attack(before + name, _send(way, wire), paths=(path,))
    yield Attack(
        before + "a second request for a denied host", _second_request(way), _TO_DENIED, (_DENIED,), paths=(path,)
    )


ATTACKS: Final = (
    *_attacks("gate", _plain),
    Attack("a request in a body behind a timeout", _body_behind_a_timeout, _TO_DENIED, (_DENIED,), paths=("gate",)),
)
INSIDE: Final = tuple(_attacks("inspected", _inside, "inside: "))
