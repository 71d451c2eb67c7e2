"""What a caller is told when a request does not pass (docs/answers.md): whole HTTP/1.1 responses.

The gate and the inspection share them. No answer holds an address that the caller did not send. The connection closes
behind it, unless nothing of the refused request can be left in it to be read as another one (`keep_alive`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

from cloned_proxy.policy.hints.hint import MANY_DENIALS, hint
from cloned_proxy.policy.hints.hint_inside import hint_inside
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.reasons import REASONS
from cloned_proxy.policy.terms.vocabulary import OWN_HOST, Reason
from cloned_proxy.proxy.grants.grant import Refusal
from cloned_proxy.proxy.upstream.dial import DialError

REASON_FIELD: Final = "X-Cloned-Proxy-Reason"
_CHALLENGE: Final = 'Basic realm="cloned-proxy"'
_MAX_ECHOED_HOST: Final = 255

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_MAX_PHRASE: Final = 200
"""Characters. Clients print the phrase in one line, and some cut a long one off."""
_NOT_IN_A_PHRASE: Final = re.compile(r"[^ -~]")

_ERRORS: Final = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "bad_request",
    HTTPStatus.REQUEST_TIMEOUT: "bad_request",
    HTTPStatus.SERVICE_UNAVAILABLE: "proxy_unavailable",
}


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """An allowed request whose upstream could not be used.

    `phase`: `resolve`, `connect`, `upstream_proxy`, `tls` or `response`.
    """

    phase: str
    timed_out: bool = False
    status: int | None = None
    """Status of the answer of the proxy in front. It goes on record, and no tool is told."""

    @property
    def cause(self) -> str:
        """What goes on record as the end of the flow."""
        return f"upstream_error:{self.phase}" + (f":{self.status}" if self.status is not None else "")


def not_dialled(error: DialError) -> UpstreamFailure:
    """What a connection that could not be made is for its caller."""
    return UpstreamFailure(error.phase, error.timed_out, error.status)


@dataclass(frozen=True, slots=True)
class Answer:
    status: HTTPStatus
    fields: tuple[tuple[str, str], ...]
    """All of them, Content-Length and `Connection: close` included."""
    body: bytes
    phrase: str = ""
    """Instead of the status's own: printable ASCII. Most clients show nothing else of a refused CONNECT."""

    def encode(self, *, with_body: bool = True, keep_alive: bool = False) -> bytes:
        """The response as it goes over the wire; `with_body` False answers HEAD (RFC 9110, section 9.3.2)."""
        fields = [f"{name}: {value}\r\n" for name, value in self.fields if not keep_alive or name != "Connection"]
        status_line = f"HTTP/1.1 {self.status.value} {self.phrase or self.status.phrase}\r\n"
        head = f"{status_line}{''.join(fields)}\r\n".encode("latin-1")
        return head + self.body if with_body else head


def refused(refusal: Refusal, *, status: int | None = None, explanation: str = "") -> Answer:
    """The answer to a Refusal. `status` and `explanation` are those of a HeadError, which says what to mend."""
    if refusal.phase:
        return failed(UpstreamFailure(refusal.phase, refusal.timed_out), refusal.decision, refusal.id)
    decision = refusal.decision
    reason = decision.reason
    code = HTTPStatus(REASONS[reason].status if status is None else status)
    extra: list[tuple[str, str]] = []
    if code is HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        extra.append(("Proxy-Authenticate", _CHALLENGE))
    if code is HTTPStatus.TOO_MANY_REQUESTS:
        extra.append(("Retry-After", str(refusal.retry_after or 1)))
    content: dict[str, str | float | None] = {
        "error": _ERRORS.get(code, "egress_denied"),
        "reason": str(reason),
        **_about(decision, refusal.id),
        "hint": _hint(refusal) if refusal.unlisted else explanation or _hint(refusal),
    }
    if refusal.approval:
        content["approval"] = refusal.approval
    answer = _answer(code, str(reason), content, extra)
    denied = code is HTTPStatus.FORBIDDEN or decision.instead_of is not None
    return replace(answer, phrase=_phrase(refusal)) if denied else answer


def failed(failure: UpstreamFailure, decision: Decision, decision_id: str) -> Answer:
    """502 or 504 for an upstream that the policy allowed."""
    code = HTTPStatus.GATEWAY_TIMEOUT if failure.timed_out else HTTPStatus.BAD_GATEWAY
    error = "upstream_timeout" if failure.timed_out else "upstream_unreachable"
    return _answer(code, "", {"error": error, "phase": failure.phase, **_about(decision, decision_id)})


def echoed(explanation: str, decision: Decision, decision_id: str) -> Answer:
    """502 for a response that the caller must not see, because an injected secret is or may be in it."""
    reason = Reason.SECRET_ECHOED.value
    about = _about(decision, decision_id)
    content = {"error": reason, "reason": reason, "phase": "response", **about, "hint": explanation}
    return _answer(HTTPStatus.BAD_GATEWAY, reason, content)


def unavailable() -> Answer:
    """When we cannot even say what the request was: stopping, or a fault that left no decision."""
    reason = Reason.INTERNAL_ERROR.value
    content = {"error": "proxy_unavailable", "reason": reason, "hint": "the proxy is stopping or at fault; see its log"}
    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, reason, content, [("Retry-After", "1")])


def own(status: HTTPStatus, content: Mapping[str, Any], *, retry_after: int | None = None, allow: str = "") -> Answer:
    """What the proxy says in its own name (`http://cloned.internal`)."""
    extra = [("Retry-After", str(retry_after))] if retry_after is not None else []
    extra += [("Allow", allow)] if allow else []
    return _answer(status, "", content, extra)


def page(text: str) -> Answer:
    """Plain ASCII text in the proxy's own name."""
    return _with_body(HTTPStatus.OK, "text/plain; charset=us-ascii", text.encode("ascii"), [])


def _phrase(refusal: Refusal) -> str:
    """The reason and the fix; where that is too long or no phrase can hold it, where else to read it."""
    reason = str(refusal.decision.reason)
    elsewhere = f"see http://{OWN_HOST}" if refusal.inside else f"see cloned-proxy explain {refusal.id}"
    for fix in (_hint(refusal), elsewhere):
        phrase = f"{reason}: {fix}"
        if fix and len(phrase) <= _MAX_PHRASE and _NOT_IN_A_PHRASE.search(phrase) is None:
            return phrase
    return reason


def _hint(refusal: Refusal) -> str:
    if refusal.unlisted and refusal.decision.reason is Reason.LIMIT_EXCEEDED:
        return MANY_DENIALS
    if refusal.inside:
        return hint_inside(refusal.decision, refusal.approval)
    if not refusal.approval:
        return hint(refusal.decision, refusal.id)
    return f"request {refusal.approval} waits for a person: cloned-proxy approvals approve {refusal.approval}"


def _about(decision: Decision, decision_id: str) -> dict[str, str | int | None]:
    request = decision.request
    return {
        "tool": decision.tool,
        "host": (decision.host.text if decision.host is not None else request.host)[:_MAX_ECHOED_HOST],
        "port": request.port,
        # A head that could not be read has no port, and nobody knows what it asked for.
        "method": request.method or ("CONNECT" if request.port else None),
        "decision_id": decision_id,
    }


def _answer(
    status: HTTPStatus,
    reason: str,
    content: Mapping[str, Any],
    extra: list[tuple[str, str]] | None = None,
) -> Answer:
    more = [*([(REASON_FIELD, reason)] if reason else []), *(extra or [])]
    return _with_body(status, "application/json", f"{_encode(content)}\n".encode("ascii"), more)


def _with_body(status: HTTPStatus, kind: str, body: bytes, more: list[tuple[str, str]]) -> Answer:
    fields = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *more,
        ("Connection", "close"),
    ]
    return Answer(status, tuple(fields), body)
