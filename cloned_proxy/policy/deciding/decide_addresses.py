"""The stage of a decision that looks at what the name resolved to; the others are in `policy.deciding.decide`."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from ipaddress import IPv6Address

from cloned_proxy.policy.deciding.refusal import judged_by_both, refused
from cloned_proxy.policy.terms.address import OPENED_BY, AddressClass, classify
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.exception import is_excepted
from cloned_proxy.policy.terms.rule import Address, Host, PatternKind, Rule
from cloned_proxy.policy.terms.vocabulary import Reason


def decide_addresses(decision: Decision, addresses: Sequence[Address], own: Container[tuple[Address, int]]) -> Decision:
    """The decision after resolution: one address that is not allowed refuses the whole name.

    A resolver that mixes public and internal answers is either broken or an attack (DNS rebinding), and picking
    the public half would make the outcome depend on the order of the records. `own` are the proxy's listeners.
    """
    if decision.passes and decision.narrowed is not None:
        return judged_by_both(decision, lambda each: decide_addresses(each, addresses, own))
    if not decision.passes:
        return decision
    if not addresses:
        return refused(decision, Reason.ADDRESS_NOT_ALLOWED)
    for address in addresses:
        if not _may_dial(decision, address, own):
            return replace(refused(decision, Reason.ADDRESS_NOT_ALLOWED), refused_address=address)
    for address in addresses if decision.networks.deny else ():
        if (rule := _denied_network(decision, address)) is not None:
            return replace(refused(decision, Reason.EXPLICIT_DENY), rule=rule, refused_address=address)
    return decision


def decide_unseen(decision: Decision) -> Decision:
    """The decision on a name that only the proxy in front looks up: no address is known, and none is checked.

    `public: true` promises that nothing private is reached, which nobody can say of such a name.
    """
    for each in (decision, decision.narrowed):
        rule = each.rule if each is not None else None
        if decision.passes and rule is not None and rule.pattern.kind is PatternKind.PUBLIC:
            return refused(decision, Reason.ADDRESS_NOT_ALLOWED)
    return decision


def _denied_network(decision: Decision, address: Address) -> Rule | None:
    """The deny whose network holds an address of the name."""
    networks = decision.networks
    host = Host(str(address), address)
    for index in networks.deny:
        for rule in index.holding(address):
            lasts = rule.expires is None or networks.at < rule.expires
            if lasts and not is_excepted(rule, host):
                return rule
    return None


def _may_dial(decision: Decision, address: Address, own: Container[tuple[Address, int]]) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    # Dialling the unspecified address connects to this machine, so no rule opens it, and `::ffff:a.b.c.d` is a.b.c.d.
    if address.is_unspecified or (mapped is not None and mapped.is_unspecified):
        return False
    port = decision.request.port
    if (address, port) in own or (mapped is not None and (mapped, port) in own):
        return False
    literal = decision.host.address if decision.host is not None else None
    if literal is not None and address != literal:
        return False
    kind = classify(address)
    return kind is AddressClass.PUBLIC or _opens(decision, address, kind, is_literal=literal is not None)


def _opens(decision: Decision, address: Address, kind: AddressClass, *, is_literal: bool) -> bool:
    """Whether a rule opens an address that is not public."""
    # In report mode the rule at hand may be the deny that was reported; that one opens nothing.
    rule = decision.rule
    if rule is None or rule.denies:
        return False
    word = OPENED_BY.get(kind)
    if is_literal:
        return rule.pattern.kind is PatternKind.ADDRESS or (rule.pattern.kind is PatternKind.CIDR and word is not None)
    return word is not None and (word in rule.addresses or _is_opened(decision, rule, address))


def _is_opened(decision: Decision, rule: Rule, address: Address) -> bool:
    """Whether a network rule lets the allowed name resolve to this address.

    `public: true` is no rule of the name's own. A network that is narrower than its addresses and ports (methods,
    paths, a number of uses) is for literals: a name's tunnel could not be held to it.
    """
    if rule.pattern.kind is PatternKind.PUBLIC:
        return False
    networks = decision.networks
    return any(
        decision.request.port in opening.ports
        and not opening.needs_inspection
        and opening.max_uses is None
        and (opening.expires is None or (networks.at < opening.expires and opening.id not in networks.ended))
        for index in networks.allow
        for opening in index.holding(address)
    )
