"""A policy with what people have granted beside it: rules that stand behind the policy's own, and below its denies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cloned_proxy.policy.model.model import EMPTY_SCOPE, Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE


def with_granted(policy: Policy, granted: Sequence[Rule]) -> Policy:
    """The policy under the same version. Each rule goes where its `scope` says; a tool that it names may be new."""
    tools = dict(policy.tools)
    everybodys = policy.global_scope
    for scope in dict.fromkeys(rule.scope for rule in granted):
        rules = [rule for rule in granted if rule.scope == scope]
        if scope == GLOBAL_SCOPE:
            everybodys = _scope_with(everybodys, rules)
        else:
            tools[scope] = _scope_with(tools.get(scope, EMPTY_SCOPE), rules)
    return replace(policy, global_scope=everybodys, tools=tools)


def _scope_with(scope: Scope, granted: Sequence[Rule]) -> Scope:
    allow = (*scope.allow.rules, *(rule for rule in granted if not rule.denies))
    deny = (*scope.deny.rules, *(rule for rule in granted if rule.denies))
    return replace(scope, allow=HostIndex(allow), deny=HostIndex(deny))
