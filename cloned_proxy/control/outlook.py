"""How calls that were refused would fare now: the decision point asked again, and doubt never told as a pass."""

from __future__ import annotations

import enum
from collections.abc import Container
from typing import Final

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.reasons import MENDABLE
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.enforce.enforced import as_enforced
from cloned_proxy.store.audit.tally import OTHER, BlockedCall, BlockedGroup
from cloned_proxy.store.policyfile.rule_use import RuleUse

_MENDED_BY_A_RULE: Final = MENDABLE | {Reason.EXPLICIT_DENY}
_MENDED_BY_RAW_TCP: Final = frozenset({Reason.PROTOCOL_NOT_ALLOWED, Reason.SNI_MISSING, Reason.SNI_MISMATCH})


class Standing(enum.StrEnum):
    REFUSED = "refused"
    """Some of it would be refused, or nobody can say before it is tried."""
    REPORTED = "reported"
    """`mode: report` lets it pass, no rule does."""
    ALLOWED = "allowed"


class Outlook:
    """Judges calls at one moment (Unix seconds), by one policy, its leases, and where the proxy itself listens."""

    def __init__(self, policy: Policy, use: RuleUse, now: float, own: Container[tuple[Address, int]]) -> None:
        self._policy = policy
        self._now = now
        self._own = own
        self._spent = use.spent(policy)
        self._ended = use.ended(policy)

    def decision(self, group: BlockedGroup, call: BlockedCall, refused_at: Address | None) -> Decision:
        """What enforcement would say of a call like this.

        A name is not asked for in DNS; what it resolved to when it was refused stands for what it would now.
        """
        caller = ANONYMOUS if group.tool is None else Principal(group.tool)
        inner = call.method not in ("", "CONNECT", OTHER) and call.path != OTHER
        method, path = (call.method, call.path) if inner else (None, None)
        request = Request(group.host, call.port, method, path)
        decision = decide(self._policy, caller, request, self._now, self._spent, ended=self._ended)
        known = None if refused_at is None else (refused_at,)
        return as_enforced(decision, self._own, ask=False, known=known).decision

    def of(self, group: BlockedGroup, refused_at: Address | None = None) -> Standing:
        """The worst of its calls."""
        found = {self._of_call(group, call, refused_at) for call in group.calls}
        return next((each for each in Standing if each in found), Standing.REFUSED)

    def _of_call(self, group: BlockedGroup, call: BlockedCall, refused_at: Address | None) -> Standing:
        decision = self.decision(group, call, refused_at)
        if decision.verdict is Verdict.REPORT:
            return Standing.REPORTED
        if decision.verdict is Verdict.DENY or not _mends(decision, call.reason, refused_at):
            return Standing.REFUSED
        return Standing.ALLOWED


def _mends(decision: Decision, reason: str, refused_at: Address | None) -> bool:
    """Whether the rule that lets the call pass now does away with what it was refused for."""
    if decision.inspect:
        return False  # which methods and paths were in the tunnel, nobody knows
    if reason in _MENDED_BY_RAW_TCP:
        return decision.rule is not None and decision.rule.raw_tcp
    if reason == Reason.ADDRESS_NOT_ALLOWED:
        return refused_at is not None  # then it is part of the decision
    return reason in _MENDED_BY_A_RULE  # identity, form and limits are not known before it is tried
