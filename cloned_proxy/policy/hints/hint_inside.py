"""The next step for a tool in a sandbox that was denied: what the tool itself can do, or who can.

`cloned-proxy` is no program of a sandbox, so none of its commands is named here. `cloned-ask` is one of our image's,
and `http://cloned.internal` says what to do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cloned_proxy.policy.hints.hint import target_of
from cloned_proxy.policy.hints.hint_registry import age_told
from cloned_proxy.policy.hints.offer import why_not_offered
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.reasons import MENDABLE, OWNERS, REASONS
from cloned_proxy.policy.terms.vocabulary import OWN_HOST, Reason

ASK_PROGRAM: Final = "cloned-ask"
_SSH_ALONE: Final = "its rule lets SSH pass, and nothing else"


def hint_inside(decision: Decision, approval: str = "") -> str:
    """One line; "" for a pass. `approval` is the id of the request that the denied call has become."""
    if decision.reason is Reason.ALLOWED:
        return ""
    if approval:
        return f"request {approval} waits for a person: {ASK_PROGRAM} {approval} (or http://{OWN_HOST})"
    host = decision.host
    if host is not None and (never := why_not_offered(host)):
        return never
    if host is not None and decision.reason in MENDABLE:
        return f"ask for it: {ASK_PROGRAM} {target_of(host, decision.request.port)} 'why' (or http://{OWN_HOST})"
    told = _WORDED.get(decision.reason)
    if told is not None and (sentence := told(decision)):
        return sentence
    return REASONS[decision.reason].hint_inside or f"see http://{OWN_HOST}"


def _denied(decision: Decision) -> str:
    """Says no more of an address that the tool did not write than that there is one."""
    if decision.refused_address is not None:
        return REASONS[Reason.ADDRESS_NOT_ALLOWED].hint_inside
    if decision.rule is not None and decision.rule.paths is not None:
        return f"the policy denies this path of the host; {OWNERS}"
    return REASONS[Reason.EXPLICIT_DENY].hint_inside


def _other_protocol(decision: Decision) -> str:
    is_http = decision.request.method is not None  # on a port that a rule opens for SSH
    return _SSH_ALONE if is_http or (decision.rule is not None and decision.rule.only_ssh) else ""


_WORDED: Final[Mapping[Reason, Callable[[Decision], str]]] = {
    Reason.EXPLICIT_DENY: _denied,
    Reason.TOO_YOUNG: age_told,
    Reason.PROTOCOL_NOT_ALLOWED: _other_protocol,
}
"""The reasons whose sentence depends on more than the reason; "" takes the general one."""
