"""What stands before every request of the control UI and API, whatever it asks for.

A page of another site can make a browser send requests here, by name (DNS rebinding), by form or by script. So the
Host field must be an address that this listener has, an Origin must be that same address, and a browser that says
where the request comes from must say "from here". Every answer, of whatever part, carries the same strict headers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloned_proxy.control.errors import ApiError
from cloned_proxy.policy.terms.host_port import in_brackets

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""On every answer. Nothing here is worth keeping, and much of it is nobody else's business."""
PROOF_HEADER: Final = "x-cloned-request"
"""A form cannot send it, and a script of another origin may not without asking first, which is never granted."""
_FROM_HERE: Final = frozenset({"same-origin", "none"})
_PAGES: Final = frozenset({"/", "/pair"})
_HTTP_PORT: Final = 80


def authorities_of(host: str, port: int) -> frozenset[str]:
    """What the Host field may say for a listener on this loopback address."""
    names = {in_brackets(host), "localhost"}
    found = {f"{name}:{port}" for name in names}
    return frozenset(found | names) if port == _HTTP_PORT else frozenset(found)


class Guard:
    """ASGI middleware, the outermost part."""

    def __init__(self, app: ASGIApp, authorities: Collection[str]) -> None:
        self._app = app
        self._authorities = authorities

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            headers = Headers(scope=scope)
            check_source(headers, self._authorities, opened=_opens_a_page(scope, headers))
        except ApiError as refusal:
            answer = JSONResponse(refusal.answer(), refusal.status, headers={"connection": "close"})
            await answer(scope, receive, send_strictly)
            return
        await self._app(scope, receive, send_strictly)


def _opens_a_page(scope: Scope, headers: Headers) -> bool:
    """Whether a person follows a link to a page, as from Grafana: shown in a window of its own, it does nothing."""
    return (
        scope["method"] == "GET"
        and scope["path"] in _PAGES
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )


def check_source(headers: Headers, authorities: Collection[str], *, opened: bool = False) -> None:
    """Raises ApiError for what a page of another origin may have caused, unless it `opened` a page of ours."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in authorities:
        raise ApiError(421, f"this is {' or '.join(sorted(authorities))}; open it by that name")
    origins = headers.getlist("origin")
    if origins and origins != [f"http://{hosts[0].lower()}"]:
        raise ApiError(403, "a page of another origin may not ask here")
    if headers.getlist(PROOF_HEADER) not in ([], ["1"]):
        raise ApiError(403, "`X-Cloned-Request` is 1 or left out")
    if not opened and any(value not in _FROM_HERE for value in headers.getlist("sec-fetch-site")):
        raise ApiError(403, "a page of another site may not ask here; type the address into the browser")


def check_proof(headers: Headers) -> None:
    """Raises ApiError unless the request shows that a script of this origin sent it: for whatever changes something."""
    if not headers.get("origin") or headers.get(PROOF_HEADER) != "1":
        raise ApiError(403, "a change from a browser needs its Origin and `X-Cloned-Request: 1`")
