"""A policy that another one narrows: what passes must pass both, at each stage of a decision.

`policy.deciding.decide` asks both and joins the answers, so nothing here has to understand what two rules have in
common. Only what is no answer to one request, the limits, is joined here: the lower one counts.
"""

from __future__ import annotations

from dataclasses import fields, replace
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.model.model import EMPTY_SCOPE, Limits, Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.problem import Problem
from cloned_proxy.policy.terms.vocabulary import Mode

_FIX: Final = "take it out here (the fleet's policy may have it)"


def narrowed(policy: Policy, by: Policy) -> Policy:
    """`policy`, of which only what `by` lets pass as well is left."""
    tools = {
        tool: replace(policy.scope_of(tool), limits=_lower(policy.scope_of(tool).limits, by.scope_of(tool).limits))
        for tool in (*policy.tools, *(name for name, scope in by.tools.items() if scope.limits != EMPTY_SCOPE.limits))
    }
    before = MappingProxyType({tool: policy.scope_of(tool).limits for tool in tools})
    return replace(policy, tools=MappingProxyType(tools), narrowed_by=by, limits_before=before)


def check_narrowing(policy: Policy) -> None:
    """Raises PolicyError for a policy that says more than what passes, which a narrowing one cannot."""
    problems = [
        Problem(rule.origin or rule.id, None, f"a local policy that narrows cannot use `{word}`; {_FIX}")
        for rule in policy.rules
        for word, used in (
            ("inject", rule.inject is not None),
            ("max_uses", rule.max_uses is not None),
            ("idle", rule.idle is not None),
            ("registry", rule.registry is not None),
        )
        if used
    ]
    if policy.mode is Mode.REPORT or policy.reporting:
        problems.append(Problem("mode", None, f"a local policy in report mode narrows nothing; {_FIX}"))
    if problems:
        raise PolicyError(tuple(problems), policy.source)


def _lower(one: Limits, other: Limits) -> Limits:
    return Limits(**{each.name: _least(getattr(one, each.name), getattr(other, each.name)) for each in fields(Limits)})


def _least(one: int | None, other: int | None) -> int | None:
    bounds = [bound for bound in (one, other) if bound is not None]
    return min(bounds) if bounds else None
