"""`anonymous: challenge`: a caller without a credential is asked for one before it is refused.

Many clients send their credential only when they are asked (RFC 9110, section 11.7.1): git, svn, dnf, Java. A request
that `global` allows is not asked about: nobody could tell such a client from one that has none, and would stop it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, CallerSource, Principal
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.reasons import MENDABLE
from cloned_proxy.policy.terms.vocabulary import Anonymous, Reason

_ANOTHER_CALLER_MAY: Final = MENDABLE | {Reason.ADDRESS_NOT_ALLOWED}
"""Refusals that the rules of a tool may turn into a pass. A deny of `global` is none: it holds for every tool."""


def challenged(policy: Policy | None, caller: Caller, decision: Decision) -> Decision:
    """The decision, or for a refused caller whose credential could change it `identity_missing`, which is a 407.

    Where the policy names no tool a credential changes nothing, and a browser would ask its user for a password.
    """
    if (
        policy is None
        or policy.anonymous is not Anonymous.CHALLENGE
        or not policy.tools
        or not isinstance(caller, Principal)
        or caller.source is not CallerSource.ANONYMOUS
        or decision.passes
        or decision.host is None  # no rule can name it
        or decision.reason not in _ANOTHER_CALLER_MAY
    ):
        return decision
    return replace(decision, reason=Reason.IDENTITY_MISSING, instead_of=decision.reason)
