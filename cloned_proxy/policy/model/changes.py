"""What differs between two versions of a policy, in a few words for the title of an entry of the history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.rule import Rule

_NAMED: Final = 3
"""Hosts that are named; the rest is counted."""


def changes(old: Policy, new: Policy) -> str:
    """`+1 rule (api.example.com), mode report`; "no rule changed" for comments, tests and settings of tools."""
    before, after = ({rule.id: rule for rule in policy.rules} for policy in (old, new))
    added = [rule for rule in new.rules if rule.id not in before]
    removed = [rule for rule in old.rules if rule.id not in after]
    terms = [rule for rule in new.rules if rule.id in before and _terms(rule) != _terms(before[rule.id])]
    words = [_counted("+", added), _counted("-", removed), _counted("changed ", terms)]
    if old.mode is not new.mode:
        words.append(f"mode {new.mode}")
    return ", ".join(filter(None, words)) or "no rule changed"


def _terms(rule: Rule) -> tuple[object, ...]:
    """What may change while the rule keeps its id. Where it stands in the file is no change."""
    return (rule.expires, rule.max_uses, rule.idle, rule.inject, rule.reason)


def _counted(sign: str, rules: Sequence[Rule]) -> str:
    if not rules:
        return ""
    hosts = list(dict.fromkeys(str(rule.pattern) for rule in rules))
    named = ", ".join(hosts[:_NAMED]) + (", …" if len(hosts) > _NAMED else "")
    return f"{sign}{len(rules)} {'rule' if len(rules) == 1 else 'rules'} ({named})"
