"""Whether and how a slot answers for names: what the settings ask for, and what this process can do."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Final

from cloned_proxy.local.slot_protocol import NamesHandover
from cloned_proxy.local.slot_sockets import knows_namespaces
from cloned_proxy.runner.namespaces.netns import CAP_NET_ADMIN, holds
from cloned_proxy.runner.namespaces.steering import can_steer
from cloned_proxy.runner.values.errors import SandboxInputError

AUTO: Final = "auto"
OFF: Final = "off"
PUBLIC_LOOKING: Final = IPv4Network("11.64.0.0/16")
"""The default. Guards inside programs ("not a public address") let only ordinary unicast addresses through. A slot has
no route, so that nobody's host can be meant, and what a rule allows is dialled by the proxy, outside."""
LOOPBACK: Final = IPv4Network("127.128.0.0/9")
"""What works without any capability; programs with such a guard do not take it."""
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_SECOND_ADDRESS: Final = IPv4Interface("127.0.0.2/32")
"""With 127.0.0.1 alone the C library thinks that there is no IPv4, and with AI_ADDRCONFIG asks for no address of it."""
_SPARES: Final = 32
"""Ports of rules that a slot can have where they are not steered."""


@dataclass(frozen=True, slots=True)
class NamePlan:
    """How the names of one slot are answered."""

    network: IPv4Network
    addresses: tuple[IPv4Interface, ...] = ()
    """The addresses that loopback gets besides its own."""
    steered: bool = False
    """All ports lead to one socket; else each port of a rule takes one."""

    @property
    def handover(self) -> NamesHandover:
        return NamesHandover(str(self.network), 0 if self.steered else _SPARES)

    @property
    def spares(self) -> int:
        return self.handover.spares

    @property
    def listen_on(self) -> str:
        """Where the slot's other ports listen: without steering a name at one of them has to arrive there, too."""
        return "127.0.0.1" if self.steered else "0.0.0.0"  # noqa: S104  in a namespace that has nothing but loopback


def plan_names(setting: str, *, enters: bool) -> NamePlan | None:
    """`auto`, `off`, or a network; `enters`: this process may enter the slot's namespace. None: no names.

    Raises SandboxInputError for a network that cannot be had here.
    """
    if setting == OFF:
        return None
    if not knows_namespaces():  # else the proxy takes no socket that could be one of this host's
        if setting == AUTO:
            return None
        raise SandboxInputError("sandbox.name_addresses: namespaces have no cookies before Linux 5.14; set it to off")
    may_add = enters and holds(CAP_NET_ADMIN)
    steered = enters and can_steer()
    if setting == AUTO:
        return _public(PUBLIC_LOOKING, steered=steered) if may_add else None
    network = IPv4Network(setting)
    if network.subnet_of(_LOOPBACK):
        return NamePlan(network, (_SECOND_ADDRESS,) if may_add else (), steered)
    if not may_add:
        raise SandboxInputError(
            f"sandbox.name_addresses: {network} takes CAP_NET_ADMIN in the slot; run as root, or set it to {LOOPBACK}"
        )
    return _public(network, steered=steered)


def _public(network: IPv4Network, *, steered: bool) -> NamePlan:
    return NamePlan(network, (IPv4Interface((network[1], network.prefixlen)),), steered)
