"""One operation of the API as a value: from it come the dispatch, the checks of what was sent, and OpenAPI."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cloned_proxy.control.errors import ApiError, FieldProblem
from cloned_proxy.control.services import ControlServices
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.store.workspaces.devices import Device

MAX_BODY: Final = 65_536
_BODY_SECONDS: Final = 10.0

type Method = Literal["GET", "POST", "DELETE"]


class Strict(BaseModel):
    """A body, a query or an answer: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Query(Strict):
    """A query string; its values are text that must read as the type exactly."""

    model_config = ConfigDict(strict=False)


class NoQuery(Query):
    """Nothing after the question mark."""


class Nothing(Strict):
    """The body of a POST that has nothing to say."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    request: Request
    services: ControlServices
    device: Device | None
    path: Mapping[str, str]
    query: Any
    """A value of the operation's `query`."""
    body: Any
    """A value of the operation's `body`; None without one."""

    @property
    def actor(self) -> str:
        """What the log calls whoever asks."""
        return f"device:{self.device.name}" if self.device is not None else "nobody"


type Handler = Callable[[Call], Strict | Response] | Callable[[Call], Awaitable[Strict | Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    method: Method
    path: str
    """Below /api/v1: `/decisions/{id}`."""
    summary: str
    handler: Handler
    """A plain function runs in a thread: it may read files and the database."""
    answer: type[Strict] | None
    """None for what is not one JSON object."""
    query: type[Query] = NoQuery
    body: type[Strict] | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    """The pattern of each name in `path`."""
    refusals: Sequence[int] = ()
    """Statuses beyond those that every operation has."""
    status: int = 200
    paired: bool = True
    media_type: str = "application/json"

    @property
    def changes(self) -> bool:
        return self.method != "GET"


async def read_body(request: Request, model: type[Strict] | None) -> Strict | None:
    """The body as `model`; without one it must be empty, and one without fields may be.

    Raises ApiError with 400, 408, 413, 415 or 422.
    """
    raw = await _read(request, MAX_BODY)
    if model is None:
        if raw:
            raise ApiError(400, "this takes no body")
        return None
    if not raw and not model.model_fields:
        return model()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send `Content-Type: application/json`")
    try:
        read_json(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}"[:200]) from error
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise invalid(error, "body") from error


def read_query(request: Request, model: type[Query]) -> Query:
    """The query as `model`. Raises ApiError with 422."""
    pairs = request.query_params.multi_items()
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ApiError(422, "a query field may stand once", fields=[FieldProblem(path=twice[0], message="twice")])
    try:
        return model.model_validate_strings(dict(pairs))
    except ValidationError as error:
        raise invalid(error, "query") from error


def invalid(error: ValidationError, what: str) -> ApiError:
    """422, with every problem and its path."""
    problems = [
        FieldProblem(path=_path(item["loc"]), message=item["msg"])
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ][:20]
    first = problems[0]
    place = f"{what}.{first.path}" if first.path else what
    return ApiError(422, f"{place}: {first.message}", fields=problems)


async def run(operation: Operation, call: Call) -> Strict | Response:
    """What the handler answers."""
    if inspect.iscoroutinefunction(operation.handler):
        return cast("Strict | Response", await operation.handler(call))
    return cast("Strict | Response", await anyio.to_thread.run_sync(operation.handler, call))


async def _read(request: Request, limit: int) -> bytes:
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdecimal() or int(length[:12]) > limit:
        raise ApiError(413, f"at most {limit} bytes", headers={"connection": "close"})
    pieces = bytearray()
    try:
        with anyio.fail_after(_BODY_SECONDS):
            async for piece in request.stream():
                pieces += piece
                if len(pieces) > limit:
                    raise ApiError(413, f"at most {limit} bytes", headers={"connection": "close"})
    except TimeoutError as error:
        raise ApiError(408, "the body took too long", headers={"connection": "close"}) from error
    except ClientDisconnect as error:
        raise ApiError(400, "the body ended early") from error
    return bytes(pieces)


def _path(parts: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")
