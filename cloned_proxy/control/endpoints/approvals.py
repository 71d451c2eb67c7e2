"""What tools ask for, what is on record about it, and a person's yes or no."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from cloned_proxy.control.endpoints.terms import Duration, Reason, Uses, Version, conflict
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.fleet.approvals.approval_service import approvals_of
from cloned_proxy.store.approvals.approval_errors import ApprovalError, DecidedError, UnknownApprovalError
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.files.errors import ConflictError
from cloned_proxy.store.policyfile.edit_service import EditService

APPROVAL_ID: Final = "a-[0-9a-f]{10}"


class EntryAnswer(Strict):
    host: str
    ports: list[int] = Field(default_factory=list)
    methods: list[str] = Field(default_factory=list)
    paths: list[str] = Field(default_factory=list)
    protocols: list[str] = Field(default_factory=list)
    addresses: list[str] = Field(default_factory=list)


class ApprovalAnswer(Strict):
    id: str
    state: Literal["pending", "approved", "rejected", "expired"]
    created: float
    expires: float
    """When it is too late to decide."""
    asker: str
    run: str | None
    origin: str
    scope: str
    tool: str | None
    action: str
    entries: list[EntryAnswer]
    for_seconds: float | None
    uses: int | None
    reason: str
    """What the tool says: untrusted text."""
    denied_count: int
    """How often it was asked for, or met the denial; the denied calls that it is about are in the evidence."""
    policy_version: str
    decided_by: str
    decided_at: float | None
    decided_reason: str
    rule_ids: list[str]
    replica: str
    """Name of the replica of a fleet on which it was asked for; "" for this one."""


class MatchedAnswer(Strict):
    tool: str | None
    host: str
    passed: int
    denied: int
    last: float


class DeniedAnswer(Strict):
    host: str
    port: int
    method: str
    path: str
    reason: str
    count: int
    last: float


class EvidenceAnswer(Strict):
    since: float
    policy_version: str
    """To be sent as `expected_version`."""
    matched: list[MatchedAnswer]
    matched_more: int
    wildcard_reach: list[str]
    denied: list[DeniedAnswer]
    narrowest: list[EntryAnswer]
    notes: list[str]
    digest: str
    """To be sent as `seen`."""


class DetailAnswer(ApprovalAnswer):
    evidence: EvidenceAnswer


class ApprovalsQuery(Query):
    state: Literal["pending", "approved", "rejected", "expired"] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class ApprovalsAnswer(Strict):
    items: list[ApprovalAnswer]


class Approve(Strict):
    choice: Literal["proposed", "narrowest"] = "proposed"
    lasting: Annotated[Duration | None, Field(alias="for")] = None
    """None: as asked."""
    uses: Uses | None = None
    reason: Reason = ""
    expected_version: Version | None = None
    seen: Version | None = None
    """`digest` of the evidence that was looked at: newer denials then are a conflict."""
    update_tests: bool = False
    """As in a new rule."""


class Reject(Strict):
    reason: Reason = ""


class ApprovedAnswer(Strict):
    approval: ApprovalAnswer
    changed: bool
    version: str


def _list(call: Call) -> ApprovalsAnswer:
    query: ApprovalsQuery = call.query
    found = _service(call).list(query.state, limit=query.limit)
    return ApprovalsAnswer(items=[_answer(approval.as_data()) for approval in found])


def _get(call: Call) -> DetailAnswer:
    with _deciding(call) as service:
        approval, evidence = service.get(call.path["id"]), service.evidence(call.path["id"])
    return DetailAnswer.model_validate({**approval.as_data(), "evidence": evidence.as_data()})


def _approve(call: Call) -> ApprovedAnswer:
    body: Approve = call.body
    with _deciding(call) as service:
        granted = service.approve(
            call.path["id"],
            actor=call.actor,
            choice=body.choice,
            for_seconds=body.lasting,
            uses=body.uses,
            reason=body.reason,
            expected_version=body.expected_version,
            seen=body.seen,
            update_tests=body.update_tests,
        )
    return ApprovedAnswer(
        approval=_answer(granted.approval.as_data()), changed=granted.changed, version=granted.version
    )


def _reject(call: Call) -> ApprovalAnswer:
    body: Reject = call.body
    with _deciding(call) as service:
        return _answer(service.reject(call.path["id"], actor=call.actor, reason=body.reason).as_data())


def _service(call: Call) -> ApprovalService:
    return approvals_of(call.services.workspace, call.services.policy_file, clock=call.services.clock)


@contextlib.contextmanager
def _deciding(call: Call) -> Iterator[ApprovalService]:
    try:
        yield _service(call)
    except UnknownApprovalError as error:
        raise ApiError(404, str(error)) from error
    except DecidedError as error:
        raise ApiError(409, str(error)) from error
    except ConflictError as error:
        raise conflict(error, EditService(call.services.workspace, call.services.policy_file)) from error
    except ApprovalError as error:
        raise ApiError(422, str(error)) from error


def _answer(data: dict[str, Any]) -> ApprovalAnswer:
    return ApprovalAnswer.model_validate(data)


OPERATIONS: Final = (
    Operation("GET", "/approvals", "Requests of tools, the newest first", _list, ApprovalsAnswer,
              query=ApprovalsQuery),
    Operation("GET", "/approvals/{id}", "One request with its evidence", _get, DetailAnswer,
              places={"id": APPROVAL_ID}, refusals=(404,)),
    Operation("POST", "/approvals/{id}/approve", "Say yes: the policy changes", _approve, ApprovedAnswer,
              body=Approve, places={"id": APPROVAL_ID}, refusals=(404, 409)),
    Operation("POST", "/approvals/{id}/reject", "Say no: it does not", _reject, ApprovalAnswer,
              body=Reject, places={"id": APPROVAL_ID}, refusals=(404, 409)),
)  # fmt: skip
