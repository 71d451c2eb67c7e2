"""Who asks: a browser by its cookie, an API client by its bearer token."""

from __future__ import annotations

import contextlib
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers

from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.guard import check_proof
from cloned_proxy.control.services import ControlServices
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.devices import Device


def device_of(headers: Headers, services: ControlServices, *, changes: bool) -> Device:
    """The paired device. Raises ApiError: 401 for nobody, 403 for a change by cookie without proof of its origin."""
    credentials = headers.getlist("authorization")
    if credentials:
        kind, _, token = credentials[0].partition(" ")
        if len(credentials) != 1 or kind.lower() != "bearer":
            raise ApiError(401, "write `Authorization: Bearer TOKEN`, once", headers={"www-authenticate": "Bearer"})
        device = services.devices.find(token.strip(), "api") or services.devices.find(token.strip(), "reader")
        if device is not None and device.kind == "reader" and changes:
            raise ApiError(
                403, "this token may only read: `cloned-proxy pair --api` prints one that may change", code="read_only"
            )
    else:
        device = services.devices.find(_cookie(headers, services.cookie), "browser")
        if device is not None and changes:
            check_proof(headers)
    if device is None:
        raise ApiError(
            401,
            "not paired: `cloned-proxy pair` prints a code for /pair, `cloned-proxy pair --api` a bearer token",
            headers={"www-authenticate": "Bearer"},
        )
    with contextlib.suppress(StoreError):  # when it was last seen is no reason to refuse it
        services.devices.touch(device)
    return device


def _cookie(headers: Headers, name: str) -> str:
    found = [value for line in headers.getlist("cookie") for value in _values(line, name)]
    return found[0] if len(found) == 1 else ""  # two of one name: somebody planted one


def _values(line: str, name: str) -> list[str]:
    pairs = (pair.strip().partition("=") for pair in line.split(";"))
    return [value for found, _, value in pairs if found == name]


def session_cookie(name: str, token: str, seconds: float) -> str:
    """The `Set-Cookie` value. No `Secure`: the listener is loopback HTTP, and a browser would drop it."""
    cookie: SimpleCookie = SimpleCookie()
    try:
        cookie[name] = token
    except CookieError as error:
        raise ValueError(str(error)) from error
    morsel = cookie[name]
    morsel["path"], morsel["max-age"] = "/", str(int(seconds))
    morsel["httponly"], morsel["samesite"] = True, "Strict"
    return morsel.OutputString()
