"""What requests for a rule have in common: how long, how often, why, and on which version of the policy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.units import DURATION_PATTERN, MAX_TERM, MIN_TERM, parse_term
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_file import load_policy, parse_bytes


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("one line of printable text")
    return text


type Duration = Annotated[
    float,
    BeforeValidator(parse_term),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": DURATION_PATTERN},
                {"type": "number", "minimum": MIN_TERM, "maximum": MAX_TERM},
            ]
        }
    ),
]
"""Seconds, or a text such as `30m`."""
type Reason = Annotated[str, Field(max_length=500), AfterValidator(_one_line)]
type Version = Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
type Uses = Annotated[int, Field(ge=1, le=1_000_000_000)]


@contextlib.contextmanager
def editing(call: Call) -> Iterator[EditService]:
    """The edit service; a version that has moved on becomes an answer of the API."""
    service = EditService(call.services.workspace, call.services.policy_file, clock=call.services.clock)
    try:
        yield service
    except ConflictError as error:
        raise conflict(error, service) from error


def in_force(call: Call) -> Policy:
    """The policy of the file, or the last version that was accepted while the file as it is now is not."""
    service = EditService(call.services.workspace, call.services.policy_file, clock=call.services.clock)
    try:
        return load_policy(service.path, call.services.clock(), service.presets)
    except PolicyError:
        newest = service.history(limit=1)
        if not newest:
            raise
        text = service.text_of(newest[0].version)
        return parse_bytes(text.encode(), source=str(service.path), presets=service.presets)


def conflict(error: ConflictError, service: EditService) -> ApiError:
    """409, with the version that is there now, so that whoever asked can look again."""
    with contextlib.suppress(StoreError):
        return ApiError(409, str(error), version=version_of(read_policy_bytes(service.path)))
    return ApiError(409, str(error))
