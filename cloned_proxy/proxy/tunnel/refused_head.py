"""What becomes of a head that cannot be read: a refusal on record, and an answer that says what to mend."""

from __future__ import annotations

from cloned_proxy.policy.callers.caller import Caller, coming_from
from cloned_proxy.policy.callers.identity import identify
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.wire.head import HeadError
from cloned_proxy.telemetry.events import Kind


def answer_to_head(services: GateServices, caller: Caller, error: HeadError, kind: Kind) -> Answer:
    """Puts the refusal of a head on record and says what to mend."""
    refusal = services.enforcer.refuse(caller, error.request, kind, error.reason)
    status = error.status if refusal.decision.reason is error.reason else None
    return answers.refused(refusal, status=status, explanation=str(error))


def head_caller(services: GateServices, listener: Listener, error: HeadError, source_address: str) -> Caller:
    """The sender of a refused head, by the listener and by what credential could be read of the head."""
    caller = identify(error.fields, tokens=services.tokens, now=services.clock(), listener=listener.principal)
    return coming_from(caller, source_address)
