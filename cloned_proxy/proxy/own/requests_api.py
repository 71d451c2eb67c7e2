"""What the proxy itself answers at `http://cloned.internal`: a tool asks for other rules, under its own identity.

`POST /v1/egress/requests` opens a request (202), `GET /v1/egress/requests/ID` tells what became of one's own, `GET /`
says how to use them. What a tool may read of itself beside that is `own_view`.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import structlog

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.proxy.enforce.answers import Answer, own, page
from cloned_proxy.proxy.enforce.asking import Asking, told
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.proxy.own.own_page import REQUESTS_PATH, own_page
from cloned_proxy.proxy.own.own_view import VIEW_PATHS, OwnView
from cloned_proxy.store.approvals.approval import Approval
from cloned_proxy.store.approvals.approval_errors import (
    ApprovalError,
    InForceError,
    NotAllowedToAskError,
    TooManyRequestsError,
    UnknownApprovalError,
)
from cloned_proxy.store.approvals.approval_rules import checked, in_force
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.approvals.egress_request import MAX_BODY, MalformedRequestError, read_update
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import ApprovalEvent, AuditSink, AuditUnavailableError

_log = structlog.get_logger(__name__)

_ONE: Final = re.compile(rf"{REQUESTS_PATH}/(a-[0-9a-f]{{10}})")
_MINUTE: Final = 60.0
_CALLS_PER_MINUTE: Final = 120
"""Most calls of one tool at once in each worker, looking included; the store bounds the new requests."""
_MAX_TOOLS: Final = 1024
_STATUS: Final = (
    (MalformedRequestError, HTTPStatus.BAD_REQUEST, "bad_request"),
    (NotAllowedToAskError, HTTPStatus.FORBIDDEN, "not_allowed_to_ask"),
    (UnknownApprovalError, HTTPStatus.NOT_FOUND, "unknown_request"),
    (InForceError, HTTPStatus.CONFLICT, "already_in_force"),
    (ApprovalError, HTTPStatus.BAD_REQUEST, "never_allowed"),
)


class RequestsApi:
    """One for each process, on its event loop."""

    def __init__(
        self,
        service: ApprovalService,
        asking: Asking,
        *,
        policies: PolicySource,
        audit: AuditSink,
        view: OwnView,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._asking = asking
        self._policies = policies
        self._audit = audit
        self._clock = clock
        self._view = view
        self._calls: OrderedDict[str, deque[float]] = OrderedDict()

    def refusal(self, tool: str, method: str, path: str, length: int | None) -> Answer | None:
        """What can be answered from the head alone; None when the rest has to be read."""
        if (wait := self._too_many(tool)) is not None:
            return own(HTTPStatus.TOO_MANY_REQUESTS, _error("too_many", f"try again in {wait} s"), retry_after=wait)
        target = path.partition("?")[0]
        if target == "/" and method in ("GET", "HEAD"):
            return page(own_page(tool))
        allowed = "GET" if target in VIEW_PATHS or _ONE.fullmatch(target) else ""
        allowed = "POST" if target == REQUESTS_PATH else allowed
        if not allowed:
            text = f"POST http://cloned.internal{REQUESTS_PATH}, or GET one of your own there by its id"
            return own(HTTPStatus.NOT_FOUND, _error("not_found", text))
        if method != allowed:
            text = f"{method} is not for this; use {allowed}"
            return own(HTTPStatus.METHOD_NOT_ALLOWED, _error("method_not_allowed", text), allow=allowed)
        return too_large() if length is not None and length > MAX_BODY else None

    async def answer(self, caller: Principal, method: str, path: str, body: bytes) -> Answer:
        """Opens a request or tells about one. Never raises but cancellation."""
        tool = caller.tool or ""
        try:
            if method == "POST":
                return await self._open(caller, tool, body)
            if path.partition("?")[0] in VIEW_PATHS:
                return await self._view_of(caller, path)
            return await self._look(tool, path.rpartition("/")[2])
        except TooManyRequestsError as error:
            content = _error("too_many", str(error))
            return own(HTTPStatus.TOO_MANY_REQUESTS, content, retry_after=error.retry_after)
        except ApprovalError as error:
            status, code = next((s, c) for kind, s, c in _STATUS if isinstance(error, kind))
            self._record_refusal(caller, code, str(error))
            return own(status, _error(code, str(error)))
        except (PolicyError, StoreError) as error:
            _log.error("a request for other rules could not be kept", tool=tool, reason=str(error))
        except Exception:  # noqa: BLE001  logged; the tool is told that it is our fault
            _log.exception("a request for other rules failed")
        return own(HTTPStatus.SERVICE_UNAVAILABLE, _error("unavailable", "the request could not be kept; try again"))

    async def _open(self, caller: Principal, tool: str, body: bytes) -> Answer:
        proposal = read_update(body, tool)
        policy = self._policy()
        approval = await self._asking.run(lambda: self._service.ask(tool, proposal, policy=policy, run=caller.run))
        if approval.denied_count == 1:
            told(approval)
        return own(HTTPStatus.ACCEPTED, self._about(approval))

    async def _look(self, tool: str, approval_id: str) -> Answer:
        unknown = UnknownApprovalError(f"there is no request {approval_id!r} of yours")
        try:
            approval = await self._asking.run(lambda: self._service.get(approval_id))
        except UnknownApprovalError:
            raise unknown from None  # the store's own words are for whoever can list requests
        if approval.asker != tool or approval.origin == "host":  # whose it is, is nobody else's business
            raise unknown
        return own(HTTPStatus.OK, self._about(approval))

    def _about(self, approval: Approval) -> dict[str, Any]:
        """What a tool may know of its own request: not who the reviewer is."""
        return {
            "id": approval.id,
            "state": approval.state,
            "in_force": self._acts(approval),
            "expires": approval.expires,
            "asked": str(approval.proposal.addition),
            "reason": approval.decided_reason,
            "url": f"http://cloned.internal{REQUESTS_PATH}/{approval.id}",
        }

    def _acts(self, approval: Approval) -> bool:
        """Whether the policy in force says what was asked for, or what of it was approved.

        A yes acts a moment after it was given, and somebody may write the rule by hand while the request waits.
        """
        policy = self._policy()
        if not approval.rule_ids:
            return in_force(policy, approval.proposal, checked(approval.proposal)[1])
        now = self._clock()
        acting = {rule.id for rule in policy.rules if rule.expires is None or rule.expires > now}
        return acting.issuperset(approval.rule_ids)

    async def _view_of(self, caller: Principal, path: str) -> Answer:
        policy = self._policy()
        try:
            return own(HTTPStatus.OK, await self._asking.run(lambda: self._view.answer(caller, policy, path)))
        except ValueError as error:
            return own(HTTPStatus.BAD_REQUEST, _error("bad_request", str(error)))

    def _policy(self) -> Policy:
        policy = self._policies.current
        if policy is None:
            raise StoreError("no valid policy is loaded")
        return policy

    def _too_many(self, tool: str) -> int | None:
        now = time.monotonic()
        calls = self._calls.setdefault(tool, deque())
        self._calls.move_to_end(tool)
        while len(self._calls) > _MAX_TOOLS:
            self._calls.popitem(last=False)
        while calls and now - calls[0] >= _MINUTE:
            calls.popleft()
        if len(calls) >= _CALLS_PER_MINUTE:
            return max(1, int(calls[0] + _MINUTE - now) + 1)
        calls.append(now)
        return None

    def _record_refusal(self, caller: Principal, code: str, said: str) -> None:
        """`said` may quote what the tool wrote; it goes on record as harmless as a reason does."""
        why = redact(said)
        try:
            self._audit.record(
                ApprovalEvent(self._clock(), "refused", "", f"tool:{caller.tool}", caller.tool, code, why, "")
            )
        except AuditUnavailableError:
            _log.warning("a refused request is not on record", tool=caller.tool, reason=why)


def too_large() -> Answer:
    """The answer to a body over the bound."""
    return own(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _error("too_large", f"a request has at most {MAX_BODY} bytes"))


def too_slow() -> Answer:
    """The answer to a body that does not come."""
    return own(HTTPStatus.REQUEST_TIMEOUT, _error("too_slow", "the body did not come in time"))


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": code, "message": message, "fields": []}
