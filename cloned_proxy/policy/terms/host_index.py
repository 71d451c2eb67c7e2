"""The rules of one list, found by the host that a request names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloned_proxy.policy.terms.network_index import NetworkIndex
from cloned_proxy.policy.terms.rule import Host, PatternKind, Rule


def _specific_first(rule: Rule) -> tuple[bool, int, bool, bool, bool]:
    # Inspected rules first, so that a broad rule beside one cannot skip its header injection; then those that open
    # addresses, which a plain one must not hide; leases last, so that a use is spent only where nothing lasts.
    return (not rule.needs_inspection, -len(rule.addresses), rule.is_lease, not rule.raw_tcp, not rule.only_ssh)


class HostIndex:
    """The rules of one list, found by host in time that depends on the labels of the name, not on the rules."""

    __slots__ = ("_any_depth", "_exact", "_one_label", "dated", "networks", "rules")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules: Final = tuple(rules)
        networks = [rule for rule in self.rules if rule.pattern.kind is PatternKind.CIDR]
        self.networks: Final = NetworkIndex(sorted(networks, key=_specific_first)) if networks else None
        self.dated: Final = any(rule.registry is not None for rule in self.rules)
        """Whether a rule has `registry`: those are looked for beyond the first that allows."""
        tables: dict[PatternKind, dict[str, list[Rule]]] = {kind: {} for kind in PatternKind}
        for rule in self.rules:
            tables[rule.pattern.kind].setdefault(rule.pattern.value, []).append(rule)
        # A name cannot look like an address in canonical form, so both share one table.
        self._exact = _frozen({**tables[PatternKind.EXACT], **tables[PatternKind.ADDRESS]})
        self._one_label = _frozen(tables[PatternKind.ONE_LABEL])
        self._any_depth = _frozen(tables[PatternKind.ANY_DEPTH])

    def __len__(self) -> int:
        return len(self.rules)

    def matching(self, host: Host) -> tuple[Rule, ...]:
        """Every rule whose pattern covers the host, the closest pattern first."""
        name = host.text
        found = self._exact.get(name, ())
        if host.address is not None:
            return found if self.networks is None else found + self.networks.holding(host.address)
        if self._one_label:
            found += self._one_label.get(name.partition(".")[2], ())
        if self._any_depth:
            parent = name.partition(".")[2]
            while parent:
                found += self._any_depth.get(parent, ())
                parent = parent.partition(".")[2]
        return found


def _frozen(table: dict[str, list[Rule]]) -> dict[str, tuple[Rule, ...]]:
    return {value: tuple(sorted(rules, key=_specific_first)) for value, rules in table.items()}
