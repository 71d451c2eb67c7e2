"""The control UI and API as one ASGI application: which operation a request means, who asks, and what goes back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Final

import anyio
import structlog
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cloned_proxy.control.errors import ApiError, FieldProblem
from cloned_proxy.control.guard import Guard, check_proof
from cloned_proxy.control.openapi import openapi
from cloned_proxy.control.operation import Call, Operation, read_body, read_query, run
from cloned_proxy.control.pages import INDEX, PAIR, Pages
from cloned_proxy.control.services import ControlServices
from cloned_proxy.control.sessions import device_of
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.tests_of_policy import ForbiddenByTestsError
from cloned_proxy.store.workspaces.devices import Device

_log = structlog.get_logger(__name__)

API: Final = "/api/v1"
_STATIC: Final = "/static/"
_PAGE_METHODS: Final = ("GET", "HEAD")
_READS: Final = ("GET", "HEAD", "OPTIONS")


class ControlApp:
    """The part behind the guard."""

    def __init__(self, services: ControlServices, operations: Iterable[Operation], pages: Pages) -> None:
        self._services = services
        self._pages = pages
        described = [*operations, Operation("GET", "/openapi.json", "This description", self._describe, None)]
        self._routes = [(_pattern(operation), operation) for operation in described]
        self._description = openapi(described, prefix=API, cookie=services.cookie)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ApiError as refusal:
            response = _refusal(refusal)
        except StoreError as error:
            _log.error("a request could not be answered", path=request.url.path, reason=str(error))
            response = _refusal(
                ApiError(
                    503,
                    "the state of the workspace cannot be used now; the log of `serve` says why",
                    headers={"retry-after": "1"},
                )
            )
        except Exception:  # noqa: BLE001  logged; whoever asks hears of it, and nothing of what is inside
            _log.exception("a request failed", path=request.url.path)
            response = _refusal(ApiError(500, "a fault of cloned-proxy; the log of `serve` says more"))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if path.startswith(f"{API}/"):
            return await self._operate(request, path.removeprefix(API))
        if request.method not in _PAGE_METHODS:
            raise ApiError(405, "pages are only read", headers={"allow": "GET, HEAD"})
        if path == "/pair":
            return self._page(PAIR)
        name = path.removeprefix(_STATIC) if path.startswith(_STATIC) else None
        if name in self._pages.public:
            return self._page(name)
        try:
            await self._device(request, changes=False)
        except ApiError:
            if path == "/":
                return RedirectResponse("/pair", 303)
            raise
        if path == "/":
            return self._page(INDEX)
        return self._page(name)

    def _page(self, name: str | None) -> Response:
        page = self._pages.files.get(name or "")
        if page is None:
            raise ApiError(404, "there is nothing here")
        return Response(page.content, media_type=page.media_type)

    async def _operate(self, request: Request, path: str) -> Response:
        here = [(found, operation) for pattern, operation in self._routes if (found := pattern.fullmatch(path))]
        meant = [(found, operation) for found, operation in here if operation.method == request.method]
        open_to_all = bool(here) and not any(operation.paired for _, operation in here)
        changes = request.method not in _READS
        # Whom nobody knows learns not even which paths there are.
        device = None if open_to_all else await self._device(request, changes=changes)
        if not here:
            raise ApiError(404, "there is no such operation; see /api/v1/openapi.json")
        if not meant:
            allowed = ", ".join(sorted({operation.method for _, operation in here}))
            raise ApiError(405, f"this takes {allowed}", headers={"allow": allowed})
        found, operation = meant[0]
        if device is None and operation.changes:
            check_proof(request.headers)
        query = read_query(request, operation.query)
        body = await read_body(request, operation.body) if operation.changes else None
        call = Call(request, self._services, device, found.groupdict(), query, body)
        try:
            outcome = await run(operation, call)
        except StoreError as error:
            if device is None:
                raise
            # A paired device is the owner's: it may read which file is in the way, and why.
            raise ApiError(503, str(error), headers={"retry-after": "1"}) from error
        except PolicyError as error:
            raise _not_accepted(error, asked_for=operation.changes) from error
        if isinstance(outcome, BaseModel):
            return Response(outcome.model_dump_json(), operation.status, media_type="application/json")
        return outcome

    def _describe(self, _call: Call) -> Response:
        return JSONResponse(self._description)

    async def _device(self, request: Request, *, changes: bool) -> Device:
        return await anyio.to_thread.run_sync(partial(device_of, request.headers, self._services, changes=changes))


def make_app(services: ControlServices, operations: Iterable[Operation], pages: Pages | None = None) -> ASGIApp:
    """The whole application, guard included."""
    return Guard(ControlApp(services, operations, pages or Pages.load()), services.authorities)


def _not_accepted(error: PolicyError, *, asked_for: bool) -> ApiError:
    """In the words of the policy's own parser; whoever only reads has met a file that somebody else broke."""
    problems = [FieldProblem(path=p.path, message=p.message, line=p.line) for p in error.problems[:20]]
    if isinstance(error, ForbiddenByTestsError):
        message = "the policy file's own `tests:` forbid this; `update_tests` takes that out of them in the same edit"
        return ApiError(422, message, fields=problems, code="forbidden_by_test")
    message = problems[0].message if problems else str(error)
    return ApiError(422, message, fields=problems) if asked_for else ApiError(503, str(error), fields=problems)


def _refusal(refusal: ApiError) -> Response:
    return JSONResponse(refusal.answer(), refusal.status, headers=dict(refusal.headers))


def _pattern(operation: Operation) -> re.Pattern[str]:
    """`/decisions/{id}` with the pattern of `id` in its place."""
    pieces = re.split(r"\{(\w+)\}", operation.path)
    literal = [re.escape(piece) for piece in pieces[::2]]
    named = [f"(?P<{name}>{operation.places[name]})" for name in pieces[1::2]]
    return re.compile("".join(a + b for a, b in zip(literal, [*named, ""], strict=True)), re.ASCII)
