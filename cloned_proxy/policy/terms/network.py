"""`cidr:` of a rule: a network in CIDR notation (RFC 4632, RFC 4291) as a pattern, and which of them no rule takes."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from cloned_proxy.policy.terms.address import OPENED_BY, AddressClass, classes_of
from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.rule import HostPattern, Network, PatternKind

_SHORTEST_IPV4: Final = 8
_SHORTEST_IPV6: Final = 32
_UNIQUE_LOCAL: Final = ipaddress.IPv6Network("fc00::/7")  # RFC 4193: a company may name all of it
_CANONICAL_IPV4: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})/(?:0|[1-9][0-9]?)")


def is_network(text: str) -> bool:
    """Whether this is meant for `cidr:`, not for `host:`: digits, dots and colons in front of a slash."""
    return re.fullmatch(r"[0-9A-Fa-f:.]*[0-9:]/[0-9]{1,3}", text) is not None


def parse_network(text: str, *, denies: bool) -> HostPattern:
    """A network as a pattern, in canonical form. Raises ValueError with the fix in its message."""
    network = _network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None:
        raise ValueError(f"{text!r} is IPv4 written as IPv6; write the IPv4 network: '{mapped}/…'")
    if not denies:
        _check_opens(text, network)
    return HostPattern(PatternKind.CIDR, str(network))


def parse_destination(text: str, *, denies: bool) -> HostPattern:
    """A host pattern, or a network in CIDR notation, as lists of other programs mix them. Raises ValueError."""
    return parse_network(text, denies=denies) if is_network(text) else parse_pattern(text)


def network_of(pattern: HostPattern) -> Network:
    """The network of a pattern of kind CIDR."""
    return ipaddress.ip_network(pattern.value)


def _network(text: str) -> Network:
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdecimal():
        raise ValueError(f"{text!r} is not a network; write it as 10.20.0.0/16 or 2001:db8::/32")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; write it as 10.20.0.0/16 or 2001:db8::/32") from None
    if ipaddress.ip_address(address) != network.network_address:
        raise ValueError(f"{text!r} has bits set behind the prefix; write '{network}', or the one address alone")
    if isinstance(network, ipaddress.IPv4Network) and _CANONICAL_IPV4.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not in plain decimals; write '{network}'")
    return network


def _check_opens(text: str, network: Network) -> None:
    shortest = _SHORTEST_IPV4 if isinstance(network, ipaddress.IPv4Network) else _SHORTEST_IPV6
    unique_local = isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_UNIQUE_LOCAL)
    if network.prefixlen < shortest and not unique_local:
        everything = "; for the whole public internet a tool has 'public: true'" if network.prefixlen == 0 else ""
        raise ValueError(
            f"{text!r} is too wide for one rule: at most a /{shortest}{everything}; name the networks that are yours"
        )
    classes = classes_of(network)
    if not any(kind is AddressClass.PUBLIC or kind in OPENED_BY for kind in classes):
        named = ", ".join(sorted(kind.value.replace("_", "-") for kind in classes))
        raise ValueError(f"{text!r} holds nothing that a rule opens ({named}); take it out")
