"""The next step for a tool in a sandbox that was denied: what the tool itself can do, or who can.

`cloned-proxy` is no program of a sandbox, so none of its commands is named here. `cloned-ask` is one of our image's,
and `http://cloned.internal` says what to do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cloned_proxy.policy.hints.hint import ALLOWABLE, target_of
from cloned_proxy.policy.hints.hint_registry import age_told
from cloned_proxy.policy.hints.offer import why_not_offered
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.vocabulary import OWN_HOST, Reason

ASK_PROGRAM: Final = "cloned-ask"
_OWNERS: Final = "only the owner of the policy can change that"
_NO_CREDENTIAL: Final = "send no credential: the proxy of a sandbox knows its tool without one"
_SENTENCES: Final = {
    Reason.EXPLICIT_DENY: f"the policy denies this host by name; {_OWNERS}",
    Reason.ADDRESS_NOT_ALLOWED: f"the host has an address that the policy does not open; {_OWNERS}",
    Reason.IP_LITERAL: "write the address as four plain decimals, e.g. 192.0.2.1; other spellings are never allowed",
    Reason.PROTOCOL_NOT_ALLOWED: "a tunnel carries TLS only; send plain HTTP to the proxy without CONNECT",
    Reason.IDENTITY_MISSING: _NO_CREDENTIAL,
    Reason.IDENTITY_INVALID: _NO_CREDENTIAL,
    Reason.IDENTITY_EXPIRED: _NO_CREDENTIAL,
    Reason.IDENTITY_MISMATCH: _NO_CREDENTIAL,
    Reason.SNI_MISMATCH: "the TLS server name must be the host of the CONNECT",
    Reason.SNI_MISSING: "the client must send the host of the CONNECT as TLS server name",
    Reason.HOST_HEADER_MISMATCH: "the Host header must name the host of the request target",
    Reason.MALFORMED_REQUEST: "the request can be read in more than one way; write host, port and path plainly",
    Reason.LIMIT_EXCEEDED: "wait as Retry-After says",
    Reason.SECRET_LEAK: f"the request holds a secret that does not belong to this host; {_OWNERS}",
    Reason.SECRET_ECHOED: "the response repeats a secret that the proxy injected",
    Reason.STORE_UNAVAILABLE: "the host is allowed for a number of calls, which cannot be counted now; try again later",
    Reason.POLICY_UNAVAILABLE: f"no valid policy is loaded; {_OWNERS}",
    Reason.INTERNAL_ERROR: "this is a fault of the proxy; its log, outside, says more",
}


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
    if host is not None and decision.reason in ALLOWABLE:
        return f"ask for it: {ASK_PROGRAM} {target_of(host, decision.request.port)} 'why' (or http://{OWN_HOST})"
    told = _WORDED.get(decision.reason)
    if told is not None and (sentence := told(decision)):
        return sentence
    return _SENTENCES.get(decision.reason, f"see http://{OWN_HOST}")


def _denied(decision: Decision) -> str:
    """Says no more of an address that the tool did not write than that there is one."""
    if decision.refused_address is not None:
        return _SENTENCES[Reason.ADDRESS_NOT_ALLOWED]
    if decision.rule is not None and decision.rule.paths is not None:
        return f"the policy denies this path of the host; {_OWNERS}"
    return _SENTENCES[Reason.EXPLICIT_DENY]


def _other_protocol(decision: Decision) -> str:
    is_http = decision.request.method is not None  # on a port that a rule opens for SSH
    return _SSH_ALONE if is_http or (decision.rule is not None and decision.rule.only_ssh) else ""


_WORDED: Final[Mapping[Reason, Callable[[Decision], str]]] = {
    Reason.EXPLICIT_DENY: _denied,
    Reason.TOO_YOUNG: age_told,
    Reason.PROTOCOL_NOT_ALLOWED: _other_protocol,
}
"""The reasons whose sentence depends on more than the reason; "" takes the general one."""
