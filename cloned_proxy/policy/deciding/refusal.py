"""How a decision becomes a refusal, or in `report` mode a report."""

from __future__ import annotations

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
