"""`no_proxy` of `upstream:`: what is reached directly, not through the proxy in front. Pure.

Other programs read `NO_PROXY` each in its own way (is `example.com` its subdomains too?), so here each form means one
thing: `intranet.example` that name, `.intranet.example` every name below it, `10.0.0.0/8` and `10.1.2.3` addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloned_proxy.policy.terms.host import HostError, is_loopback_name, parse_host
from cloned_proxy.policy.terms.rule import Address, Host

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Bypass:
    """The entries of one list. This machine itself is always on it: in front, its addresses are another machine's."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    """Each with its leading dot."""
    networks: tuple[Network, ...] = ()

    def covers_name(self, host: Host) -> bool:
        """Whether the host is reached directly whatever its addresses are."""
        name = host.text
        return host.address is None and (
            name in self.names or name.endswith(self.suffixes) or is_loopback_name(name)
        )  # fmt: skip

    def leaves_to_front(self, host: Host) -> bool:
        """Whether it is a name that the proxy in front would look up, if it is to look any up."""
        return host.address is None and not self.covers_name(host)

    def covers(self, address: Address) -> bool:
        return address.is_loopback or any(address in network for network in self.networks)

    def beyond(self, addresses: Sequence[Address]) -> tuple[Address, ...]:
        """The addresses of a name that are reached through the proxy in front."""
        return tuple(address for address in addresses if not self.covers(address))


def read_bypass(entries: Iterable[str]) -> Bypass:
    """Raises ValueError, which names the entry and the fix."""
    names: set[str] = set()
    suffixes: list[str] = []
    networks: list[Network] = []
    for entry in entries:
        if "/" in entry:
            networks.append(_network(entry))
        elif "*" in entry:
            raise ValueError(f"{entry!r}: write .example.com for every name below it; without `upstream` all is direct")
        elif entry.startswith("."):
            suffixes.append(f".{_name(entry, entry[1:])}")
        elif (host := _host(entry, entry)).address is not None:
            networks.append(ipaddress.ip_network(host.address))
        else:
            names.add(host.text)
    return Bypass(frozenset(names), tuple(suffixes), tuple(networks))


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        raise ValueError(f"{entry!r} is no network; write one such as 10.0.0.0/8 ({error})") from error


def _name(entry: str, text: str) -> str:
    host = _host(entry, text)
    if host.address is not None:
        raise ValueError(f"{entry!r} is no suffix of names; write one such as .intranet.example")
    return host.text


def _host(entry: str, text: str) -> Host:
    try:
        return parse_host(text)
    except HostError as error:
        fix = "write a name, a suffix such as .intranet.example, an address or a network, without scheme and port"
        raise ValueError(f"{entry!r}: {error}; {fix}") from error
