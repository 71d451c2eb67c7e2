"""How calls that were refused would fare now: the decision point asked again, and doubt never told as a pass."""

from __future__ import annotations

import enum
from typing import Final

from cloned_proxy.policy.caller import ANONYMOUS, Principal
from cloned_proxy.policy.decide import decide, decide_addresses, needs_hello
from cloned_proxy.policy.hint import ALLOWABLE
from cloned_proxy.policy.model import Decision, Policy, Reason, Request, Verdict
from cloned_proxy.store.rule_use import RuleUse
from cloned_proxy.store.tally import OTHER, BlockedCall, BlockedGroup

_MENDED_BY_A_RULE: Final = ALLOWABLE | {Reason.EXPLICIT_DENY}
_MENDED_BY_RAW_TCP: Final = frozenset({Reason.PROTOCOL_NOT_ALLOWED, Reason.SNI_MISSING, Reason.SNI_MISMATCH})


class Standing(enum.StrEnum):
    REFUSED = "refused"
    """Some of it would be refused, or nobody can say before it is tried."""
    REPORTED = "reported"
    """`mode: report` lets it pass, no rule does."""
    ALLOWED = "allowed"


class Outlook:
    """As of one moment (Unix seconds), one policy and what is left of its leases."""

    def __init__(self, policy: Policy, use: RuleUse, now: float) -> None:
        self._policy = policy
        self._now = now
        self._spent = use.spent(policy)
        self._ended = use.ended(policy)

    def decision(self, group: BlockedGroup, call: BlockedCall) -> Decision:
        """What the decision point says of a call like this."""
        caller = ANONYMOUS if group.tool is None else Principal(group.tool)
        inner = call.method not in ("", "CONNECT", OTHER) and call.path != OTHER
        method, path = (call.method, call.path) if inner else (None, None)
        request = Request(group.host, call.port, method, path)
        return decide(self._policy, caller, request, self._now, self._spent, ended=self._ended)

    def of(self, group: BlockedGroup) -> Standing:
        """The worst of its calls."""
        found = {self._of_call(group, call) for call in group.calls}
        return next((each for each in Standing if each in found), Standing.REFUSED)

    def _of_call(self, group: BlockedGroup, call: BlockedCall) -> Standing:
        decision = self.decision(group, call)
        if decision.host is not None and decision.host.address is not None:
            decision = decide_addresses(decision, [decision.host.address], own=())
        if decision.verdict is Verdict.REPORT:
            return Standing.REPORTED
        if decision.verdict is Verdict.DENY or not _mends(decision, call.reason):
            return Standing.REFUSED
        return Standing.ALLOWED


def _mends(decision: Decision, reason: str) -> bool:
    """Whether the rule that lets the call pass now does away with what it was refused for."""
    if decision.inspect:
        return False  # which methods and paths were in the tunnel, nobody knows
    if reason in _MENDED_BY_RAW_TCP:
        return not needs_hello(decision)
    # Of a name's addresses nothing is known before it is resolved, and of identity, form and limits not even then.
    return reason in _MENDED_BY_A_RULE
