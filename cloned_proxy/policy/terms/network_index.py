"""Rules by network, found by address in time that depends on the prefix lengths in use, not on the rules."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Final

from cloned_proxy.policy.terms.network import network_of
from cloned_proxy.policy.terms.rule import Address, Rule


class NetworkIndex:
    """The rules with `cidr:` of one list."""

    __slots__ = ("_tables",)

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        found: dict[int, dict[int, dict[int, list[Rule]]]] = {4: {}, 6: {}}
        for rule in rules:
            network = network_of(rule.pattern)
            shift = network.max_prefixlen - network.prefixlen
            table = found[network.version].setdefault(shift, {})
            table.setdefault(int(network.network_address) >> shift, []).append(rule)
        # The longest prefix first: the closest rule is asked first.
        self._tables: Final = {
            version: tuple(
                (shift, {prefix: tuple(listed) for prefix, listed in tables[shift].items()}) for shift in sorted(tables)
            )
            for version, tables in found.items()
        }

    def holding(self, address: Address) -> tuple[Rule, ...]:
        """Every rule whose network holds the address, the smallest network first.

        `::ffff:a.b.c.d` is in the networks of a.b.c.d, too: a connection to it ends there.
        """
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        found = self._in(address)
        return found if mapped is None else found + self._in(mapped)

    def _in(self, address: Address) -> tuple[Rule, ...]:
        number = int(address)
        return tuple(rule for shift, table in self._tables[address.version] for rule in table.get(number >> shift, ()))
