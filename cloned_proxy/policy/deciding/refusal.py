"""How a decision becomes a refusal, or in `report` mode a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.reasons import REASONS
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict

NEVER_REPORTED: Final = frozenset(reason for reason, row in REASONS.items() if not row.reportable)
"""Refusals that stand in `report` mode too (docs/policy.md)."""


def verdict_of_refusal(mode: Mode, reason: Reason) -> Verdict:
    """What becomes of a request for which there is this reason: in `report` mode most pass."""
    return Verdict.REPORT if mode is Mode.REPORT and reason not in NEVER_REPORTED else Verdict.DENY


def refused(decision: Decision, reason: Reason) -> Decision:
    """The decision turned into a refusal, or into a report where `report` mode lets it pass."""
    return replace(decision, verdict=verdict_of_refusal(decision.mode, reason), reason=reason)


def reported_by(decision: Decision, local: Decision) -> Decision:
    """A pass of the one policy with what the other one only reports. Rule and mode stay: by them it goes on."""
    if local.verdict is not Verdict.REPORT:
        return decision
    return replace(decision, verdict=local.verdict, reason=local.reason, refused_address=local.refused_address)


def judged_by_both(decision: Decision, stage: Callable[[Decision], Decision]) -> Decision:
    """What a stage makes of a pass that a second policy has let pass, too: a denial of either, else a report of either.

    The same object, if the stage changes neither.
    """
    narrowed = decision.narrowed
    if narrowed is None:
        return stage(decision)
    local = stage(narrowed)
    if not local.passes:
        return local
    alone = replace(decision, narrowed=None)
    own = stage(alone)
    if not own.passes:
        return own
    if own is not alone:
        return replace(own, narrowed=local)
    return decision if local is narrowed else replace(reported_by(decision, local), narrowed=local)
