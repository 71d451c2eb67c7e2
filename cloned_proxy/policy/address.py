"""What kind of place an IP address is. `ipaddress.is_global` is not an SSRF filter; this table is.

It passes NAT64 of 127.0.0.1 (`64:ff9b::7f00:1`), multicast (`224.0.0.1`) and 192.88.99.1, so the classes here come
from the IANA special-purpose registries (RFC 6890 and its updates), with the cloud metadata addresses beside them.
"""

from __future__ import annotations

import enum

from cloned_proxy.policy.model import Address


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


def classify(address: Address) -> AddressClass:
    """The class of an address; anything that is not plainly public is something else."""
    raise NotImplementedError
