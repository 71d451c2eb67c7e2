"""Every version of the policy that was in force, and the way back to one."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from cloned_proxy.control.endpoints.rules import EditAnswer, edit_answer
from cloned_proxy.control.endpoints.terms import Reason, Version, editing
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.policyfile.edit_service import EditService

VERSION: Final = "[0-9a-f]{12}"


class HistoryQuery(Query):
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class VersionAnswer(Strict):
    version: str
    at: float
    actor: str
    """`cli:<user>`, `device:<name>`; `file` for a change by hand."""
    why: str
    summary: str
    current: bool
    """Whether the file says so now."""


class HistoryAnswer(Strict):
    items: list[VersionAnswer]


class TextAnswer(Strict):
    version: str
    text: str
    diff: str
    """What this version changed, against the one before it."""


class RestoreRequest(Strict):
    reason: Reason = ""
    expected_version: Version | None = None
    dry_run: bool = False
    """Only tells, in `diff`, what it would change in the file as it is now."""
    update_tests: bool = False
    """As in a new rule."""


def _history(call: Call) -> HistoryAnswer:
    service = EditService(call.services.workspace, call.services.policy_file)
    now = version_of(read_policy_bytes(service.path))
    return HistoryAnswer(
        items=[
            VersionAnswer(
                version=found.version,
                at=found.at,
                actor=found.actor,
                why=found.why,
                summary=found.summary,
                current=found.version == now,
            )
            for found in service.history(call.query.limit)
        ]
    )


def _version(call: Call) -> TextAnswer:
    service, version = _service_that_has(call)
    return TextAnswer(version=version, text=service.text_of(version), diff=service.diff(version))


def _restore(call: Call) -> EditAnswer:
    body: RestoreRequest = call.body
    _, version = _service_that_has(call)
    with editing(call) as service:
        result = service.restore(
            version,
            actor=call.actor,
            why=redact(body.reason),
            expected_version=body.expected_version,
            dry_run=body.dry_run,
            update_tests=body.update_tests,
        )
    return edit_answer(result)


def _service_that_has(call: Call) -> tuple[EditService, str]:
    service, version = EditService(call.services.workspace, call.services.policy_file), call.path["version"]
    if all(found.version != version for found in service.history()):
        raise ApiError(404, "the history has no such version")
    return service, version


OPERATIONS: Final = (
    Operation("GET", "/history", "Versions of the policy, the newest first", _history, HistoryAnswer,
              query=HistoryQuery),
    Operation("GET", "/history/{version}", "One version: its text and what it changed", _version, TextAnswer,
              places={"version": VERSION}, refusals=(404,)),
    Operation("POST", "/history/{version}/restore", "Put an earlier version back", _restore, EditAnswer,
              body=RestoreRequest, places={"version": VERSION}, refusals=(404, 409)),
)  # fmt: skip
