"""Who lives where in the fake internet. Every name that is not listed resolves to `ELSEWHERE`.

That last rule is what makes a confusion attack able to succeed: whatever name a proxy wrongly lets through, it
resolves, connects, and is logged. All addresses look public and exist only inside the namespace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RESOLVER: Final = "93.184.216.53"
ELSEWHERE: Final = ("93.184.217.66", "2606:2800:220:2::66")
"""The rest of the world: any name that nobody registered."""

API: Final = ("93.184.216.10", "2606:2800:220:1::10")
FILES: Final = ("93.184.216.11",)
INSPECTED: Final = ("93.184.216.12",)
WILD: Final = ("93.184.216.13",)
ALPHA: Final = ("93.184.216.14",)
BETA: Final = ("93.184.216.15",)
DENIED: Final = ("93.184.217.67",)
SILENT: Final = ("93.184.216.20",)
CLOSING: Final = ("93.184.216.21",)
BAD_CERTIFICATE: Final = ("93.184.216.23",)
METADATA: Final = ("169.254.169.254",)
INTERNAL: Final = "10.0.0.5"


@dataclass(frozen=True, slots=True)
class Name:
    """What the DNS server says about one name."""

    addresses: tuple[str, ...] = ()
    alias: str = ""
    """A CNAME to follow; the answer carries the alias and the addresses behind it."""
    code: int = 0
    """RFC 1035 RCODE: 2 SERVFAIL, 3 NXDOMAIN."""
    delay: float = 0.0
    """Seconds before the answer; below zero: never."""
    then: tuple[str, ...] = ()
    """DNS rebinding: the addresses of every answer after the first."""


ZONE: Final[dict[str, Name]] = {
    "api.example.com": Name(API),
    "other.example.com": Name(("93.184.216.16",)),
    "files.example.com": Name(FILES),
    "inspected.example.com": Name(INSPECTED),
    "wild.example.org": Name(DENIED),
    "one.wild.example.org": Name(WILD),
    "blocked.wild.example.org": Name(DENIED),
    "two.one.wild.example.org": Name(DENIED),
    "alpha.example.com": Name(ALPHA),
    "beta.example.com": Name(BETA),
    "shell.example.com": Name(("93.184.216.17",)),
    "ssh.example.com": Name(("93.184.216.19",)),
    "xn--mnchen-3ya.de": Name(("93.184.216.18",)),
    "fass.de": Name(DENIED),
    "silent.example.com": Name(SILENT),
    "closing.example.com": Name(CLOSING),
    "bad-certificate.example.com": Name(BAD_CERTIFICATE),
    "private.example.com": Name((INTERNAL,)),
    "front.example.org": Name(("10.0.0.9",)),
    "denied-network.example.com": Name(("93.184.217.70",)),
    "loopback.example.com": Name(("127.0.0.1",)),
    "own.loopback.example.com": Name(("127.0.0.1",)),
    "loopback6.example.com": Name(("::1",)),
    "this-network.example.com": Name(("0.0.0.0",)),
    "metadata.example.com": Name(METADATA),
    "cgnat.example.com": Name(("100.64.0.7",)),
    "reserved.example.com": Name(("240.0.0.1",)),
    "anycast-relay.example.com": Name(("192.88.99.1",)),
    "ula.example.com": Name(("fd00::5",)),
    "mapped.example.com": Name(("::ffff:10.0.0.5",)),
    "compatible.example.com": Name(("::10.0.0.5",)),
    "sixtofour.example.com": Name(("2002:a00:5::",)),
    "nat64.example.com": Name(("64:ff9b::a00:5",)),
    "teredo.example.com": Name(("2001:0:1::1",)),
    "mixed.example.com": Name((API[0], INTERNAL)),
    "mixed6.example.com": Name((API[0], "::1")),
    "alias.example.com": Name(alias="inside.example.net"),
    "inside.example.net": Name((INTERNAL,)),
    "rebind.example.com": Name(API[:1], then=(INTERNAL,)),
    "absent.example.com": Name(code=3),
    "broken.example.com": Name(code=2),
    "slow.example.com": Name(API[:1], delay=1.0),
    "never.example.com": Name(delay=-1.0),
}


def answer_for(name: str) -> Name:
    """What the zone says about a lower-case name without the trailing dot."""
    return ZONE.get(name, Name(ELSEWHERE))


def place(host: str) -> tuple[str, ...]:
    """The addresses of a name, aliases followed; an address is its own place."""
    if ":" in host or host.replace(".", "").isdigit():
        return (host,)
    entry = answer_for(host)
    return place(entry.alias) if entry.alias else entry.addresses + entry.then
