"""Rules that the parser accepts and that still open more than most people mean. Advice, never a reason to refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cloned_proxy.policy.model import GLOBAL_SCOPE, PatternKind, Policy, Rule


class WideRule(NamedTuple):
    rule: Rule
    why: str
    """One clause without an end: `its secret goes to every name below example.com`."""


def wide_rules(policy: Policy) -> Iterator[WideRule]:
    """The allow rules, those of presets too, with the worst that each one opens."""
    for rule in policy.rules:
        if not rule.denies and (why := _why(rule)):
            yield WideRule(rule, why)


def _why(rule: Rule) -> str:
    """The worst first."""
    every = f"every name that {rule.pattern} covers"
    wildcard = rule.pattern.kind in (PatternKind.ONE_LABEL, PatternKind.ANY_DEPTH)
    shared = rule.scope == GLOBAL_SCOPE
    findings = (
        (wildcard and rule.inject is not None, f"its secret goes to {every}"),
        (wildcard and bool(rule.addresses), f"{every} may point into your own network"),
        (wildcard and rule.raw_tcp, f"any protocol goes to {every}"),
        (shared and rule.inject is not None, "every caller of the global rules uses its secret"),
        (shared and rule.raw_tcp, "any protocol is open to every caller of the global rules"),
        (shared and rule.pattern.kind is PatternKind.ANY_DEPTH, f"every caller of the global rules reaches {every}"),
    )
    return next((why for wide, why in findings if wide), "")
