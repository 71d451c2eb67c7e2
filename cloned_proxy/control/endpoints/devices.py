"""Pairing, the session that comes of it, and the devices that were paired."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field
from starlette.responses import Response

from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Operation, Strict
from cloned_proxy.control.sessions import session_cookie
from cloned_proxy.store.workspaces.devices import (
    DEVICE_SECONDS,
    MAX_NAME,
    Device,
    PairingError,
    PairingLockedError,
    valid_device_name,
)

DEVICE_ID: Final = "[0-9a-f]{16}"


def _device_name(name: str) -> str:
    if name and not valid_device_name(name):
        raise ValueError("letters, digits, spaces and .()@+-_ only, and a letter or digit first")
    return name


class PairRequest(Strict):
    code: Annotated[str, Field(min_length=1, max_length=64)]
    """As `cloned-proxy pair` printed it; case and dashes do not matter."""
    name: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_device_name)] = ""
    """What the log will call this browser."""


class DeviceAnswer(Strict):
    id: str
    name: str
    kind: str
    created: float
    expires: float
    seen: float | None
    current: bool
    """Whether it is the one that asks."""


class DevicesAnswer(Strict):
    items: list[DeviceAnswer]


class DeviceName(Strict):
    id: str
    name: str


class SessionAnswer(Strict):
    device: DeviceName


def _pair(call: Call) -> Response:
    body: PairRequest = call.body
    try:
        paired = call.services.devices.exchange(body.code, body.name)
    except PairingLockedError as error:
        raise ApiError(429, str(error), headers={"retry-after": str(error.retry_after)}) from error
    except PairingError as error:
        raise ApiError(403, str(error), code="wrong_code") from error
    answer = SessionAnswer(device=DeviceName(id=paired.device.id, name=paired.device.name))
    cookie = session_cookie(call.services.cookie, paired.token, DEVICE_SECONDS)
    return Response(answer.model_dump_json(), media_type="application/json", headers={"set-cookie": cookie})


def _session(call: Call) -> SessionAnswer:
    if call.device is None:
        raise ApiError(401, "not paired")
    return SessionAnswer(device=DeviceName(id=call.device.id, name=call.device.name))


def _devices(call: Call) -> DevicesAnswer:
    return DevicesAnswer(items=[_answer(device, call) for device in call.services.devices.list()])


def _revoke(call: Call) -> DeviceAnswer:
    device = call.services.devices.revoke(call.path["id"], actor=call.actor)
    if device is None:
        raise ApiError(404, "there is no such device")
    return _answer(device, call)


def _answer(device: Device, call: Call) -> DeviceAnswer:
    current = call.device is not None and call.device.id == device.id
    return DeviceAnswer(
        id=device.id,
        name=device.name,
        kind=device.kind,
        created=device.created,
        expires=device.expires,
        seen=device.seen,
        current=current,
    )


OPERATIONS: Final = (
    Operation(
        "POST",
        "/pair",
        "Exchange a one-time code for a session cookie",
        _pair,
        SessionAnswer,
        body=PairRequest,
        refusals=(429,),
        paired=False,
    ),
    Operation("GET", "/session", "Who is asking", _session, SessionAnswer),
    Operation("GET", "/devices", "The paired devices", _devices, DevicesAnswer),
    Operation(
        "DELETE",
        "/devices/{id}",
        "End what a device may do, at once",
        _revoke,
        DeviceAnswer,
        places={"id": DEVICE_ID},
        refusals=(404,),
    ),
)
