"""Attacks on where: each destination is tried as plain HTTP and through a tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.net.attacks.attempt import Attack, Attempt
from tests.net.zone import ELSEWHERE, INTERNAL


@dataclass(frozen=True, slots=True)
class _Place:
    what: str
    host: str
    """As the attacker writes it."""
    port: int | str | None = None
    """None: the usual one of the way it is tried."""
    contact: str = ""
    """Host or address that must not be connected to, when that is not clear from `host`."""
    contact_port: int | None = None
    secret: str = ""
    """A name that must not reach the DNS server."""
    policy: str = "base"


_DENIED: Final = (
    _Place("a host nobody allowed", "evil.example.net", secret="evil.example.net"),
    _Place("an explicit deny under an allowed wildcard", "blocked.wild.example.org", secret="blocked.wild.example.org"),
    _Place("a name into a denied network", "denied-network.example.com", contact="93.184.217.70"),
    _Place("the apex of a wildcard", "wild.example.org", secret="wild.example.org"),
    _Place("two labels under a one-label wildcard", "two.one.wild.example.org", secret="two.one.wild.example.org"),
    _Place("an allowed name as prefix", "api.example.com.evil.example.net", secret="api.example.com.evil.example.net"),
    _Place("an allowed name as suffix", "evilapi.example.com", secret="evilapi.example.com"),
    _Place("a label more than allowed", "x.api.example.com", secret="x.api.example.com"),
    _Place("a label less than allowed", "example.com", secret="example.com"),
    _Place("a dot that is not a regular expression", "apixexample.com", secret="apixexample.com"),
    _Place("a suffix without its dot", "evilwild.example.org", secret="evilwild.example.org"),
    _Place("upper case", "EVIL.EXAMPLE.NET", secret="evil.example.net"),
    _Place("a trailing dot", "evil.example.net.", secret="evil.example.net"),
    _Place("two trailing dots", "api.example.com.."),
    _Place("an empty label", "api..example.com"),
    _Place("a name of only a dot", "."),
    _Place("an IDNA 2003 folding of an allowed name", "fass.de", contact="fass.de", secret="fass.de"),
    _Place("sharp s, raw", "faß.de", contact="fass.de", secret="fass.de"),
    _Place("ONE DOT LEADER for a dot", "evil\u2024example.net"),
    _Place("ONE DOT LEADER inside an allowed name", "api\u2024example.com"),
    _Place("full-width letters", "\uff41pi.example.com"),
    _Place("an invalid A-label", "xn--a.example.com"),
    _Place("a percent-encoded dot", "api.example.com%2eevil.example.net"),
    _Place("a percent-encoded NUL", "api.example.com%00.evil.example.net"),
    _Place("an underscore NUL trick", "api.example.com\\x00.evil.example.net"),
    _Place("userinfo before the host", "api.example.com@evil.example.net", secret="evil.example.net"),
    _Place("userinfo with a port", "api.example.com:443@evil.example.net", secret="evil.example.net"),
    _Place("userinfo that is empty", "@evil.example.net", secret="evil.example.net"),
    _Place("a fragment", "evil.example.net#api.example.com", secret="evil.example.net"),
    _Place("a backslash", "evil.example.net\\api.example.com", secret="evil.example.net"),
    _Place("a semicolon", "evil.example.net;api.example.com", secret="evil.example.net"),
    _Place("a name in brackets", "[api.example.com]"),
    _Place("a comma list", "api.example.com,evil.example.net", secret="evil.example.net"),
)

_PORTS: Final = (
    _Place("port 22 of an allowed host", "api.example.com", 22, "api.example.com", 22),
    _Place("port 8080 of an allowed host", "api.example.com", 8080, "api.example.com", 8080),
    _Place("a port that wraps to 22", "api.example.com", 65_536 + 22, "api.example.com", 22),
    _Place("port 0", "api.example.com", 0),
    _Place("a negative port", "api.example.com", "-22", "api.example.com", 22),
    _Place("a port in hex", "api.example.com", "0x16", "api.example.com", 22),
    _Place("a port with a plus", "api.example.com", "+22", "api.example.com", 22),
    _Place("a port in Arabic digits", "api.example.com", "\u0662\u0662", "api.example.com", 22),
)

_LITERALS: Final = (
    ("an allowed host's own address", "93.184.216.10", "93.184.216.10"),
    ("a public IPv6 literal", "[2606:2800:220:1::10]", "2606:2800:220:1::10"),
    ("loopback", "127.0.0.1", "127.0.0.1"),
    ("loopback, short", "127.1", "127.0.0.1"),
    ("loopback, hex", "0x7f.1", "127.0.0.1"),
    ("loopback, one number", "2130706433", "127.0.0.1"),
    ("loopback, one hex number", "0x7f000001", "127.0.0.1"),
    ("loopback, octal", "017700000001", "127.0.0.1"),
    ("loopback, leading zeros", "127.000.000.001", "127.0.0.1"),
    ("loopback with a trailing dot", "127.0.0.1.", "127.0.0.1"),
    ("loopback in circled digits", "\u2460\u2461\u2466.0.0.1", "127.0.0.1"),
    ("this network", "0.0.0.0", "127.0.0.1"),
    ("zero", "0", "127.0.0.1"),
    ("IPv6 loopback", "[::1]", "::1"),
    ("IPv6 unspecified", "[::]", "::1"),
    ("IPv6 loopback, long", "[0:0:0:0:0:0:0:1]", "::1"),
    ("IPv4 mapped into IPv6", "[::ffff:10.0.0.5]", INTERNAL),
    ("IPv4 mapped, in hex", "[::ffff:a00:5]", INTERNAL),
    ("NAT64", "[64:ff9b::a00:5]", "64:ff9b::a00:5"),
    ("a zone index", "[fe80::1%25lo]", "fe80::1"),
    ("a private address", INTERNAL, INTERNAL),
    ("an allowed network's neighbour", "10.10.0.5", "10.10.0.5"),
    ("an allowed network, mapped into IPv6", "[::ffff:10.9.0.5]", "10.9.0.5"),
    ("an allowed network, one number", "168361989", "10.9.0.5"),
    ("a private address in hex", "0x0a000005", INTERNAL),
    ("cloud metadata", "169.254.169.254", "169.254.169.254"),
    ("cloud metadata, one number", "2852039166", "169.254.169.254"),
    ("carrier-grade NAT", "100.64.0.7", "100.64.0.7"),
)

# Names that the policy allows and that resolve to what nobody should reach through a name.
_ALLOWED_NAMES: Final = (
    ("private.example.com", INTERNAL),
    ("loopback.example.com", "127.0.0.1"),
    ("loopback6.example.com", "::1"),
    ("this-network.example.com", "127.0.0.1"),
    ("metadata.example.com", "169.254.169.254"),
    ("cgnat.example.com", "100.64.0.7"),
    ("reserved.example.com", "240.0.0.1"),
    ("anycast-relay.example.com", "192.88.99.1"),
    ("ula.example.com", "fd00::5"),
    ("mapped.example.com", INTERNAL),
    ("compatible.example.com", "::a00:5"),
    ("sixtofour.example.com", "2002:a00:5::"),
    ("nat64.example.com", "64:ff9b::a00:5"),
    ("teredo.example.com", "2001:0:1::1"),
    ("alias.example.com", INTERNAL),
)
_MIXED: Final = (("mixed.example.com", INTERNAL), ("mixed6.example.com", "::1"))


def _places() -> Iterator[_Place]:
    yield from _DENIED
    yield from _PORTS
    for what, host, contact in _LITERALS:
        yield _Place(what, host, contact=contact)
    for name, contact in (*_ALLOWED_NAMES, *_MIXED):
        yield _Place(f"{name} (allowed)", name, contact=contact)
        yield _Place(f"{name} (report mode)", name, contact=contact, policy="report")


def _attack(place: _Place, way: str) -> Attack:
    usual = 80 if way == "http" else 443
    port = usual if place.port is None else place.port
    contact_port = place.contact_port or usual
    contacts = [(place.contact, contact_port)] if place.contact else []
    contacts += [(address, contact_port) for address in ELSEWHERE]

    def act(attempt: Attempt) -> None:
        if way == "http":
            attempt.get(place.host, port)
        else:
            attempt.fetch(place.host, port)

    paths = ("gate",) if way == "http" else ("gate", "inspected")
    secrets = (place.secret,) if place.secret else ()
    return Attack(f"{way}: {place.what}", act, tuple(contacts), secrets, place.policy, paths=paths)


def _rebinding(attempt: Attempt) -> None:
    """The first answer is public; every later one is not. Once checked, a name may not be asked again for the dial."""
    for _ in range(3):
        attempt.fetch("rebind.example.com")
        attempt.get("rebind.example.com")


def _rebinding_repeated(attempt: Attempt) -> None:
    request = f"GET http://rebind.example.com/{attempt.marker} HTTP/1.1\r\nHost: rebind.example.com\r\n\r\n".encode()
    attempt.send(request, request, request, wait_for=b"HTTP/1.1 200")


def _own_port(attempt: Attempt, port: int) -> str | None:
    """The proxy asked to call itself: over the private name that its rule opens for exactly these ports."""
    host = "own.loopback.example.com"
    request = f"GET http://{host}:{port}/metrics HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    answer = attempt.send(request.encode())
    if b"cloned_proxy_build_info" in answer:
        return "the proxy fetched its own metrics"
    # A second proxy head inside the first: 400 and 403 of the inner one would also prove that it was reached.
    with attempt.tunnel(f"{host}:{port}"):
        return "the proxy opened a tunnel to itself"


def _own_listener(attempt: Attempt) -> str | None:
    return _own_port(attempt, attempt.proxy.port)


def _own_metrics(attempt: Attempt) -> str | None:
    return _own_port(attempt, attempt.proxy.metrics_port)


ATTACKS: Final = (
    *(_attack(place, way) for place in _places() for way in ("http", "tunnel")),
    Attack("a rebinding name", _rebinding, ((INTERNAL, 80), (INTERNAL, 443)), marker_is_leak=False),
    Attack("a rebinding name on one connection", _rebinding_repeated, ((INTERNAL, 80),), marker_is_leak=False),
    Attack("the proxy dialling itself", _own_listener),
    Attack("the proxy dialling its metrics", _own_metrics),
)
