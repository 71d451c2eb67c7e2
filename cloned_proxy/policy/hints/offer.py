"""For which hosts a rule is offered: by a hint, a suggestion, a request for approval, the overview of what was blocked.

A person may still write a literal into the policy file by hand; nothing here leads anybody there.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from cloned_proxy.policy.terms.address import AddressClass, classify
from cloned_proxy.policy.terms.rule import Host, HostPattern, PatternKind
from cloned_proxy.policy.terms.vocabulary import OWN_HOST

_OFFERED: Final = (AddressClass.PUBLIC, AddressClass.LOOPBACK, AddressClass.PRIVATE, AddressClass.CGNAT)


def why_not_offered(host: Host) -> str:
    """Why no rule for this host is ever offered; "" where one may be."""
    if host.text == OWN_HOST:
        return f"{OWN_HOST} is the proxy itself and needs no rule: POST http://{OWN_HOST}/v1/egress/requests"
    if host.address is None:
        return ""
    kind = classify(host.address)
    if kind in _OFFERED:
        return ""
    of_itself = ": it means the machine itself and is never dialled" if host.address.is_unspecified else ""
    return f"{host.text} is a {kind.value.replace('_', '-')} address{of_itself}; nobody can ask for those"


def why_no_request(pattern: HostPattern) -> str:
    """Why nobody may ask for a rule with this pattern; "" where one may."""
    if pattern.kind in (PatternKind.CIDR, PatternKind.PUBLIC):
        return f"{pattern} is more than one host, and opened by the owner alone; ask for the host or the address"
    return why_not_offered(host_of(pattern))


def host_of(pattern: HostPattern) -> Host:
    """The host that a pattern names, or the one that its wildcard stands in front of."""
    address = ipaddress.ip_address(pattern.value) if pattern.kind is PatternKind.ADDRESS else None
    return Host(pattern.value, address)
