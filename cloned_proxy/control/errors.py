"""Why a request of the control API is refused, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

STATUSES: Final = {
    400: "bad_request",
    401: "not_paired",
    403: "cross_origin",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    415: "not_json",
    421: "wrong_host",
    422: "invalid",
    429: "locked",
    500: "internal_error",
    503: "unavailable",
}


class FieldProblem(BaseModel):
    """One thing that is wrong with a body or a query."""

    model_config = ConfigDict(extra="forbid")

    path: str
    """`uses`, `ports[1]`; "" for the whole. With `forbidden_by_test`: of the policy file."""
    message: str
    line: int | None = None
    """Line of the policy file, 1-based, where it is about a line of it."""


class ErrorAnswer(BaseModel):
    """What every refusal says. `error` is for programs, `message` for people, and it names the fix."""

    model_config = ConfigDict(extra="forbid")

    error: str
    message: str
    fields: list[FieldProblem] = []
    """Empty where no part of the request is to blame."""
    version: str | None = None
    """With `conflict`: the version of the policy that is there now."""


class ApiError(Exception):
    """Ends a request with a status and an `ErrorAnswer`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        fields: Sequence[FieldProblem] | None = None,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
    ) -> None:
        """`code` is the answer's `error` where the status alone does not say it."""
        super().__init__(message)
        self.status: Final = status
        self._code = code or STATUSES[status]
        self.headers: Final[Mapping[str, str]] = headers or {}
        self._fields = fields
        self._version = version

    def answer(self) -> dict[str, Any]:
        answer = ErrorAnswer(
            error=self._code, message=str(self), fields=list(self._fields or ()), version=self._version
        )
        return answer.model_dump(exclude_none=True)
