"""Rules that are valid and wider than they look: what `policy check` and `doctor` warn of. Pure, and no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.address import AddressClass, classes_of, classify
from cloned_proxy.policy.terms.host import suffix_below
from cloned_proxy.policy.terms.network import network_of
from cloned_proxy.policy.terms.rule import PatternKind, Rule
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE, Anonymous, Mode

_MANY_PORTS: Final = 20
_MANY_ADDRESSES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Finding:
    place: str
    """Where it stands: the origin of the rule, or the policy file."""
    message: str
    """What is wide, why that matters, and what would be narrower."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


def findings(policy: Policy) -> tuple[Finding, ...]:
    """What of a policy opens more than somebody may think, in file order; rules that have ended count as well."""
    found = list(_modes(policy))
    nameless = policy.anonymous is not Anonymous.DENY
    for rule in policy.rules:
        if not rule.denies:
            shared = nameless and rule.scope == GLOBAL_SCOPE
            found += [Finding(rule.origin, f"{rule.pattern} {text}") for text in _of_rule(rule, shared=shared)]
    return tuple(found)


def _modes(policy: Policy) -> Iterator[Finding]:
    if policy.mode is Mode.REPORT:
        yield Finding(policy.source, "mode: report lets everything pass; mode: enforce protects")
    for tool in policy.reporting:
        yield Finding(f"{policy.source} tools.{tool}", "mode: report lets all of this tool's calls pass")


def _of_rule(rule: Rule, *, shared: bool) -> Iterator[str]:
    """`shared`: every program of this machine that reaches the proxy may use the rule."""
    pattern = rule.pattern
    if pattern.is_wildcard:
        yield from _of_wildcard(rule)
    if rule.inject is not None and shared:
        yield f"injects {rule.inject.header} for callers without a credential; give the rule to a tool"
    if pattern.kind is PatternKind.PUBLIC:
        yield "opens EVERY public host to the tool, where anybody may wait for what it carries; name the hosts it needs"
    if pattern.kind is PatternKind.CIDR:
        yield from _of_network(rule)
    if pattern.kind is PatternKind.ADDRESS:
        kind = classify(ip_address(pattern.value))
        if kind is AddressClass.METADATA:
            yield "is the cloud's metadata service, which hands out this machine's credentials; take it out"
    if len(rule.ports) > _MANY_PORTS:
        yield f"opens {len(rule.ports)} ports; name those that are used"


def _of_wildcard(rule: Rule) -> Iterator[str]:
    pattern = rule.pattern
    below = suffix_below(pattern.value, at_once=pattern.kind is PatternKind.ONE_LABEL)
    if below:
        yield f"covers names that strangers register ({below} is a public suffix); name the hosts that you mean"
    if rule.addresses:
        words = ", ".join(sorted(rule.addresses))
        yield f"with `addresses: [{words}]` opens them for every name below; name the hosts"
    if rule.inject is not None:
        yield f"sends the injected {rule.inject.header} to every host below; name the hosts"
    if rule.raw_tcp:
        yield "with `protocols: [tcp]` lets anything pass to every host below; name the hosts"


def _of_network(rule: Rule) -> Iterator[str]:
    network = network_of(rule.pattern)
    classes = classes_of(network)
    if AddressClass.LOOPBACK in classes:
        yield "holds this machine itself, with every service that listens on those ports; name the one that is meant"
    if AddressClass.PUBLIC in classes and network.num_addresses > _MANY_ADDRESSES:
        yield f"holds {network.num_addresses} addresses, public ones of strangers among them; name a smaller part"
    if rule.raw_tcp and len(rule.ports) > 1:
        yield "with `protocols: [tcp]` lets anything pass to each of its machines on several ports; name one port"
