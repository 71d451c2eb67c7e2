"""What kind of place an IP address is. `ipaddress.is_global` is not an SSRF filter; this table is.

It passes NAT64 of 127.0.0.1 (`64:ff9b::7f00:1`), multicast (`224.0.0.1`) and 192.88.99.1, so the classes here come
from the IANA special-purpose registries (RFC 6890 and its updates), with the cloud metadata addresses beside them.
Registry blocks that are formally reachable but serve protocols (AS112, AMT, ORCHID) count as reserved: no tool's
web host lives there.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.terms.rule import Address, Network


class AddressClass(enum.StrEnum):
    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    CGNAT = "cgnat"
    LINK_LOCAL = "link_local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    EMBEDDED_IPV4 = "embedded_ipv4"
    """IPv4 inside IPv6: mapped, compatible, 6to4, NAT64, Teredo, whatever the inner address is."""


class AddressWord(enum.StrEnum):
    """What `addresses:` of a rule may open. The other classes (`policy.terms.address`) are opened by nothing."""

    PRIVATE = "private"
    """Loopback, private networks, CGNAT."""
    RESERVED = "reserved"
    """What IANA keeps for documentation, benchmarks, protocols and the future."""


OPENED_BY: Final[Mapping[AddressClass, AddressWord]] = MappingProxyType(
    {
        AddressClass.LOOPBACK: AddressWord.PRIVATE,
        AddressClass.PRIVATE: AddressWord.PRIVATE,
        AddressClass.CGNAT: AddressWord.PRIVATE,
        AddressClass.RESERVED: AddressWord.RESERVED,
    }
)
"""The word in a rule's `addresses:` that lets its name resolve to such an address; no word opens the other classes."""

_METADATA_IPV4: Final = (
    "169.254.169.254",  # AWS, Azure, GCP, DigitalOcean, OpenStack, Oracle
    "169.254.170.2",  # AWS ECS task credentials
    "169.254.170.23",  # AWS EKS pod identity
    "169.254.42.42",  # Scaleway
    "100.100.100.200",  # Alibaba
    "168.63.129.16",  # Azure wire server, in public space
    "192.0.0.192",  # Oracle, older images
)
_METADATA_IPV6: Final = (
    "fd00:ec2::254",  # AWS
    "fd00:ec2::23",  # AWS EKS pod identity
    "fd20:ce::254",  # GCP
    "fd00:42::42",  # Scaleway
)

_IPV4: Final = (
    ("0.0.0.0/8", AddressClass.RESERVED),  # RFC 791; Linux connects 0.0.0.0 to itself
    ("10.0.0.0/8", AddressClass.PRIVATE),  # RFC 1918
    ("100.64.0.0/10", AddressClass.CGNAT),  # RFC 6598
    ("127.0.0.0/8", AddressClass.LOOPBACK),  # RFC 1122
    ("169.254.0.0/16", AddressClass.LINK_LOCAL),  # RFC 3927
    ("172.16.0.0/12", AddressClass.PRIVATE),  # RFC 1918
    ("192.0.0.0/24", AddressClass.RESERVED),  # RFC 6890, IETF protocol assignments
    ("192.0.2.0/24", AddressClass.RESERVED),  # RFC 5737, documentation
    ("192.31.196.0/24", AddressClass.RESERVED),  # RFC 7535, AS112
    ("192.52.193.0/24", AddressClass.RESERVED),  # RFC 7450, AMT
    ("192.88.99.0/24", AddressClass.RESERVED),  # RFC 7526, former 6to4 relays
    ("192.168.0.0/16", AddressClass.PRIVATE),  # RFC 1918
    ("192.175.48.0/24", AddressClass.RESERVED),  # RFC 7534, AS112
    ("198.18.0.0/15", AddressClass.RESERVED),  # RFC 2544, benchmarking
    ("198.51.100.0/24", AddressClass.RESERVED),  # RFC 5737
    ("203.0.113.0/24", AddressClass.RESERVED),  # RFC 5737
    ("224.0.0.0/4", AddressClass.MULTICAST),  # RFC 1112
    ("240.0.0.0/4", AddressClass.RESERVED),  # RFC 1112, and 255.255.255.255
)

_IPV6: Final = (  # the closest prefix first
    ("::/128", AddressClass.RESERVED),  # RFC 4291, unspecified
    ("::1/128", AddressClass.LOOPBACK),  # RFC 4291
    ("::/96", AddressClass.EMBEDDED_IPV4),  # RFC 4291, IPv4-compatible
    ("::ffff:0:0/96", AddressClass.EMBEDDED_IPV4),  # RFC 4291, IPv4-mapped
    ("::ffff:0:0:0/96", AddressClass.EMBEDDED_IPV4),  # RFC 2765, IPv4-translated
    ("64:ff9b::/96", AddressClass.EMBEDDED_IPV4),  # RFC 6052, NAT64
    ("64:ff9b:1::/48", AddressClass.EMBEDDED_IPV4),  # RFC 8215, NAT64, local use
    ("2001::/32", AddressClass.EMBEDDED_IPV4),  # RFC 4380, Teredo
    ("2001::/23", AddressClass.RESERVED),  # RFC 2928, IETF protocol assignments
    ("2001:db8::/32", AddressClass.RESERVED),  # RFC 3849, documentation
    ("2002::/16", AddressClass.EMBEDDED_IPV4),  # RFC 3056, 6to4
    ("2620:4f:8000::/48", AddressClass.RESERVED),  # RFC 7534, AS112
    ("3fff::/20", AddressClass.RESERVED),  # RFC 9637, documentation
    ("fc00::/7", AddressClass.PRIVATE),  # RFC 4193
    ("fe80::/10", AddressClass.LINK_LOCAL),  # RFC 4291
    ("ff00::/8", AddressClass.MULTICAST),  # RFC 4291
)

type _Range = tuple[int, int, AddressClass]


def _ranges(table: tuple[tuple[str, AddressClass], ...]) -> tuple[_Range, ...]:
    networks = ((ipaddress.ip_network(prefix), kind) for prefix, kind in table)
    return tuple((int(net.network_address), int(net.broadcast_address), kind) for net, kind in networks)


_IPV4_RANGES: Final = _ranges(_IPV4)
_IPV6_RANGES: Final = _ranges(_IPV6)
# As numbers: an address object takes a microsecond to hash, and each tunnel asks.
_METADATA: Final = {
    version: frozenset(int(ipaddress.ip_address(text)) for text in texts)
    for version, texts in ((4, _METADATA_IPV4), (6, _METADATA_IPV6))
}
_GLOBAL_UNICAST: Final = 0b001  # 2000::/3, all that IANA has ever opened for global unicast
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214, section 6.1: an IPv4 address in the interface id


def classify(address: Address) -> AddressClass:
    """The class of an address; anything that is not plainly public is something else."""
    number, version = int(address), address.version
    if number in _METADATA[version]:
        return AddressClass.METADATA
    for first, last, kind in _IPV4_RANGES if version == 4 else _IPV6_RANGES:  # noqa: PLR2004  the IP version
        if first <= number <= last:
            return kind
    if version == 4:  # noqa: PLR2004  the IP version
        return AddressClass.PUBLIC
    if (number >> 32) & 0xFFFF_FFFF in _ISATAP:
        return AddressClass.EMBEDDED_IPV4
    return AddressClass.PUBLIC if number >> 125 == _GLOBAL_UNICAST else AddressClass.RESERVED


def classes_of(network: Network) -> frozenset[AddressClass]:
    """Every class of which the network holds a whole block, or is itself a part. Single metadata addresses are none."""
    blocks = _IPV4_RANGES if network.version == 4 else _IPV6_RANGES  # noqa: PLR2004  the IP version
    first, last = int(network.network_address), int(network.broadcast_address)
    edges = {first, last} | {edge for low, high, _ in blocks for edge in (low, low - 1, high, high + 1)}
    kind = type(network.network_address)
    found = frozenset(classify(kind(edge)) for edge in edges if first <= edge <= last)
    return found - {AddressClass.METADATA} if len(found) > 1 else found
