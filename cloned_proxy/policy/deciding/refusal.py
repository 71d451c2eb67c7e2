"""How a decision becomes a refusal, or in `report` mode a report."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict

NEVER_REPORTED: Final = frozenset(
    {
        Reason.MALFORMED_REQUEST,
        Reason.HOST_HEADER_MISMATCH,
        Reason.IDENTITY_MISSING,
        Reason.IDENTITY_INVALID,
        Reason.IDENTITY_EXPIRED,
        Reason.IDENTITY_MISMATCH,
        Reason.ADDRESS_NOT_ALLOWED,
        Reason.SECRET_LEAK,
        Reason.SECRET_ECHOED,
        Reason.STORE_UNAVAILABLE,
        Reason.POLICY_UNAVAILABLE,
        Reason.INTERNAL_ERROR,
    }
)
"""Refusals that stand in `report` mode too (contract section 3)."""


def verdict_of_refusal(mode: Mode, reason: Reason) -> Verdict:
    """What becomes of a request for which there is this reason: in `report` mode most pass."""
    return Verdict.REPORT if mode is Mode.REPORT and reason not in NEVER_REPORTED else Verdict.DENY


def refused(decision: Decision, reason: Reason) -> Decision:
    """The decision turned into a refusal, or into a report where `report` mode lets it pass."""
    return replace(decision, verdict=verdict_of_refusal(decision.mode, reason), reason=reason)
