"""The synthetic addresses of one slot: a tag for each name that was asked for, by which a connection says where to."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from cloned_proxy.policy.terms.host import HostError, is_loopback_name, parse_host

MOST_NAMES: Final = 4096
_KEPT_FREE: Final = 256
"""Addresses at either end of the network that no name gets: the first is the slot's own."""
SMALLEST_PREFIX: Final = 18
"""The longest prefix of the network: it must have room for MOST_NAMES several times over."""
_LOOPBACK: Final = IPv4Address("127.0.0.1")
_OWN_NAME: Final = "sandbox"
"""The host name of every slot: programs look themselves up."""


class NameTags:
    """Name to address and back, one to one. A dispenser, not a policy: what may be reached is decided at connections.

    An address stays with its name until MOST_NAMES others were asked for since; it comes back last, when no fresh one
    is left, so that whoever kept it meets nobody rather than another name.
    """

    def __init__(self, network: IPv4Network, *, most: int = MOST_NAMES) -> None:
        """Raises ValueError for a network with too little room."""
        if network.prefixlen > SMALLEST_PREFIX:
            raise ValueError(f"{network} has too few addresses: /{SMALLEST_PREFIX} or larger")
        self.network: Final = network
        self._most: Final = most
        self._size: Final = network.num_addresses - 2 * _KEPT_FREE
        # A new process begins elsewhere: an address that a program kept from before should stand for nothing.
        self._start: Final = secrets.randbelow(self._size)
        self._given = 0
        self._freed: deque[IPv4Address] = deque()
        self._addresses: OrderedDict[str, IPv4Address] = OrderedDict()
        """Least recently asked for first."""
        self._names: dict[IPv4Address, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    @staticmethod
    def exists(name: str) -> bool:
        """Whether it can be the name of a host."""
        try:
            return parse_host(name).address is None
        except HostError:
            return False

    def address_of(self, name: str) -> IPv4Address:
        """The tag of a name that `exists`. RFC 6761, section 6.3: localhost is the slot's own loopback."""
        if name == _OWN_NAME or is_loopback_name(name):
            return _LOOPBACK
        address = self._addresses.get(name)
        if address is None:
            if len(self._addresses) >= self._most:
                _, oldest = self._addresses.popitem(last=False)
                del self._names[oldest]
                self._freed.append(oldest)
            address = self._addresses[name] = self._unused()
            self._names[address] = name
        else:
            self._addresses.move_to_end(name)
        return address

    def name_of(self, address: IPv4Address) -> str | None:
        """The name that the address stands for now."""
        name = self._names.get(address)
        if name is not None:
            self._addresses.move_to_end(name)
        return name

    def _unused(self) -> IPv4Address:
        if self._given == self._size:
            return self._freed.popleft()
        place = (self._start + self._given) % self._size
        self._given += 1
        return self.network[_KEPT_FREE + place]
