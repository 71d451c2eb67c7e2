"""Refused CONNECTs that come again: the same bytes on the same listener under the same policy are refused the same.

What is kept is the answer. Each call still counts against its caller's budget, has its own id, and is on record under
it before it is told. Kept for a second at most, and no grant is: what is out of date here can only refuse. A head may
hold a credential, so none is kept: it is known again by its digest, whose key nobody has.
The native plane, once it is told of a head, has its bytes until a sweep after that second.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.callers.caller import Caller
from cloned_proxy.policy.callers.identity import TokenVerifier
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Refusal
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.telemetry.events import Kind

_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 1.0
"""By how much the wall clock may leave the monotonic one before it counts as set."""
_MOST: Final = 512
_DIGEST_BYTES: Final = 32
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
        self,
        enforcer: Enforcer,
        tokens: TokenVerifier,
        clock: Callable[[], float],
        publish: Callable[[Listener, bytes, KnownRefusal, float], None] | None = None,
    ) -> None:
        """`clock` has Unix seconds: by it credentials and rules expire."""
        self._enforcer: Final = enforcer
        self._tokens: Final = tokens
        self._clock: Final = clock
        self._publish: Final = publish
        self._key: Final = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._known: dict[tuple[Listener, bytes], KnownRefusal] = {}
        self._policy: object = None
        self._generation = tokens.generation
        self._offset = 0.0
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
            self.forget_what_is_old()
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[listener, self._digest(head)] = KnownRefusal(caller, refusal, answer)

    def answer(self, listener: Listener, head: bytes) -> bytes | None:
        """What this head is told, which is on record by now; None when that has to be found out."""
        if not self._known or self.forget_what_is_old():
            return None
        known = self._known.get((listener, self._digest(head)))
        if known is None:
            return None
        decision_id = self._enforcer.refuse_again(known.caller, known.refusal, Kind.TUNNEL)
        if decision_id is None:
            return None
        if self._publish is not None and not known.published:
            known.published = True
            self._publish(listener, head, known, self._until)
        return known.answer.replace(known.refusal.id.encode(), decision_id.encode())

    def forget_what_is_old(self) -> bool:
        """Whether everything is forgotten: a second is over, or something that a refusal hangs on is another by now.

        The gate's sweep calls it, too.
        """
        now, policy, generation = time.monotonic(), self._enforcer.basis.policies.current, self._tokens.generation
        offset = self._clock() - now
        same = policy is self._policy and generation == self._generation
        if now < self._until and same and abs(offset - self._offset) <= _STEP_SECONDS:
            return False
        self._known.clear()
        self._policy, self._generation, self._offset, self._until = policy, generation, offset, now + _SECONDS
        return True

    def _digest(self, head: bytes) -> bytes:
        return hashlib.blake2b(head, key=self._key, digest_size=_DIGEST_BYTES).digest()
