"""Refused CONNECTs that come again: the same bytes on the same listener under the same policy are refused the same.

What is kept is the answer. Each call still counts against its caller's budget, has its own id, and is on record under
it before it is told. Kept for a second at most, and no grant is: what is out of date here can only refuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.callers.caller import Caller
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Refusal
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.telemetry.events import Kind

_SECONDS: Final = 1.0
_MOST: Final = 512
_LONGEST_HEAD: Final = 4096
_OF_THE_HEAD_ALONE: Final = frozenset(
    {
        Reason.HOST_NOT_ALLOWED,
        Reason.PORT_NOT_ALLOWED,
        Reason.EXPLICIT_DENY,
        Reason.IP_LITERAL,
        Reason.IDENTITY_MISSING,
        Reason.IDENTITY_INVALID,
        Reason.IDENTITY_EXPIRED,
        Reason.IDENTITY_MISMATCH,
    }
)
"""Reasons that depend on the head, the listener and the policy alone: no address was resolved for them."""


@dataclass(slots=True)
class KnownRefusal:
    """What a CONNECT with this head was told, and is told again."""

    caller: Caller
    refusal: Refusal
    answer: bytes
    published: bool = False
    """Whether others were offered it, who may tell it by themselves."""


class KnownRefusals:
    """One for each gate, on its event loop.

    What is asked for a second time is offered to `publish`, with the listener, the head and until when it is known
    (monotonic seconds): the first time is the only one of most calls.
    """

    def __init__(
        self, enforcer: Enforcer, publish: Callable[[Listener, bytes, KnownRefusal, float], None] | None = None
    ) -> None:
        self._enforcer: Final = enforcer
        self._publish: Final = publish
        self._known: dict[tuple[Listener, bytes], KnownRefusal] = {}
        self._policy: object = None
        self._until = 0.0

    def keep(self, listener: Listener, head: bytes, caller: Caller, refusal: Refusal, answer: bytes) -> None:
        """Remembers what a CONNECT with this head was told, where the next one with it would be told the same."""
        decision = refusal.decision
        if (
            decision.verdict is Verdict.DENY
            and decision.reason in _OF_THE_HEAD_ALONE
            and decision.refused_address is None
            and not (refusal.approval or refusal.phase or refusal.unlisted)
            and 0 < len(head) <= _LONGEST_HEAD
        ):
            self._forget_what_is_old()
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[listener, head] = KnownRefusal(caller, refusal, answer)

    def answer(self, listener: Listener, head: bytes) -> bytes | None:
        """What this head is told, which is on record by now; None when that has to be found out."""
        known = self._known.get((listener, head))
        if known is None or self._forget_what_is_old():
            return None
        decision_id = self._enforcer.refuse_again(known.caller, known.refusal, Kind.TUNNEL)
        if decision_id is None:
            return None
        if self._publish is not None and not known.published:
            known.published = True
            self._publish(listener, head, known, self._until)
        return known.answer.replace(known.refusal.id.encode(), decision_id.encode())

    def _forget_what_is_old(self) -> bool:
        now, policy = time.monotonic(), self._enforcer.basis.policies.current
        if now < self._until and policy is self._policy:
            return False
        self._known.clear()
        self._policy, self._until = policy, now + _SECONDS
        return True
