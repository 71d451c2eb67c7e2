"""mitmproxy lets a request pass when a hook breaks. Each way to break one here, judged by the bytes at the upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy.connection import Server
from mitmproxy.exceptions import AddonHalt
from mitmproxy.proxy.server_hooks import ServerConnectHook, ServerConnectionHookData

from cloned_proxy.proxy.inspection.hooks import UndecidedError
from cloned_proxy.proxy.inspection.responses import StrictHttpClient
from tests.proxy.inspection.support import Upstream, World
from tests.proxy.support import until

type Handler = Callable[..., Any]

_PATIENCE = 50.0
"""Seconds after which a client counts as left hanging; a loaded machine may take some."""


class Unforeseen(BaseException):
    pass


class Broken:
    """The real addon with one handler replaced."""

    def __init__(self, real: object, name: str, handler: Handler) -> None:
        self._real, self._name, self._handler = real, name, handler

    def __getattr__(self, name: str) -> Any:
        return self._handler if name == self._name else getattr(self._real, name)


def raising(error: BaseException) -> Handler:
    async def handler(*args: Any) -> None:
        raise error

    return handler


async def returns_nothing(*args: Any) -> None:
    pass


BROKEN = [
    pytest.param(raising(RuntimeError("broken")), id="exception"),
    pytest.param(raising(Unforeseen()), id="base-exception"),
    pytest.param(raising(AddonHalt()), id="addon-halt"),  # type: ignore[no-untyped-call]
    pytest.param(raising(asyncio.CancelledError()), id="cancelled"),
    pytest.param(lambda *args: None, id="not-a-coroutine"),
]


@pytest.mark.parametrize("handler", [*BROKEN, pytest.param(returns_nothing, id="no-decision")])
async def test_a_broken_decision_forwards_nothing(world: World, handler: Handler) -> None:
    world.inspector.parts.addon = Broken(world.inspector.parts.addon, "requestheaders", handler)
    answer = await world.talk(world.get(), seconds=2)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections


@pytest.mark.parametrize("handler", BROKEN)
async def test_a_broken_dial_check_forwards_nothing(world: World, handler: Handler) -> None:
    world.inspector.parts.addon = Broken(world.inspector.parts.addon, "server_connect", handler)
    answer = await world.talk(world.get(), seconds=2)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections


async def test_a_broken_decision_is_answered_503(world: World) -> None:
    world.inspector.parts.addon = Broken(world.inspector.parts.addon, "requestheaders", raising(RuntimeError()))
    assert (await world.talk(world.get())).startswith(b"HTTP/1.1 503 ")


async def test_a_broken_decision_on_a_kept_alive_connection_cannot_use_the_open_upstream(world: World) -> None:
    addon: Any = world.inspector.parts.addon
    calls: list[Any] = []

    async def once(connection: Any, flow: Any) -> None:
        calls.append(flow)
        if len(calls) == 1:
            await addon.requestheaders(connection, flow)

    world.inspector.parts.addon = Broken(addon, "requestheaders", once)
    await world.talk(world.get("/first") + world.get("/second"))
    assert "/first" in world.upstream.text
    assert "/second" not in world.upstream.text


@pytest.mark.parametrize("addon", [None, object()], ids=["removed", "empty"])
async def test_without_the_addon_nothing_is_forwarded(world: World, addon: object) -> None:
    world.inspector.parts.addon = addon
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections


async def test_a_dial_to_anything_but_the_granted_target_is_refused(world: World) -> None:
    addon: Any = world.inspector.parts.addon
    other = Upstream()

    async def redirecting(connection: Any, flow: Any) -> None:
        await addon.requestheaders(connection, flow)
        flow.request.data.port = other.port

    world.inspector.parts.addon = Broken(addon, "requestheaders", redirecting)
    async with await other.start(world.server_tls()):
        assert (await world.talk(world.get())).startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections
    assert not other.connections


async def test_a_dial_without_tls_is_refused(world: World) -> None:
    addon: Any = world.inspector.parts.addon

    async def in_clear(connection: Any, flow: Any) -> None:
        await addon.requestheaders(connection, flow)
        flow.request.data.scheme = b"http"

    world.inspector.parts.addon = Broken(addon, "requestheaders", in_clear)
    assert (await world.talk(world.get())).startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections


async def test_a_dial_whose_grant_was_given_back_in_between_is_refused(world: World) -> None:
    addon: Any = world.inspector.parts.addon

    async def too_late(connection: Any, flow: Any) -> None:
        await addon.requestheaders(connection, flow)
        world.enforcer.finish(connection.current.grant, "revoked:host_not_allowed")

    world.inspector.parts.addon = Broken(addon, "requestheaders", too_late)
    await world.talk(world.get())
    assert not world.upstream.connections
    assert [end.cause for end in world.audit.ends] == ["revoked:host_not_allowed"]


async def test_a_dial_without_any_exchange_is_refused(world: World) -> None:
    _, writer = await world.connect()
    connection = world.connection
    server = Server(address=("127.0.0.1", world.upstream.port))
    hook = ServerConnectHook(ServerConnectionHookData(server=server, client=connection.client))
    await connection.handle_hook(hook)
    assert server.error is not None
    with pytest.raises(UndecidedError):
        _ = connection.current
    writer.transport.abort()


@pytest.mark.parametrize("handler", BROKEN)
async def test_a_broken_response_hook_closes_the_client(world: World, handler: Handler) -> None:
    world.inspector.parts.addon = Broken(world.inspector.parts.addon, "responseheaders", handler)
    async with asyncio.timeout(_PATIENCE):
        answer = await world.talk(world.get())
    assert b"200 OK" not in answer


async def test_a_crash_inside_a_layer_does_not_leave_the_client_hanging(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashes(*_: object) -> Any:
        raise RuntimeError

    monkeypatch.setattr(StrictHttpClient, "read_headers", crashes)
    async with asyncio.timeout(_PATIENCE):
        answer = await world.talk(world.get())
    assert b"200 OK" not in answer


async def test_every_grant_comes_back_when_a_hook_breaks(world: World) -> None:
    world.inspector.parts.addon = Broken(world.inspector.parts.addon, "response", raising(RuntimeError()))
    await world.talk(world.get())
    await until(lambda: world.in_use == 0)


async def test_a_grant_that_comes_after_its_connection_has_ended_is_given_back(world: World) -> None:
    world.hold_decisions()
    client = asyncio.create_task(world.talk(world.get()))
    async with asyncio.timeout(5):
        await world.audit.asked.wait()
    await world.inspector.close()
    world.audit.free.set()
    await client
    await asyncio.sleep(0.1)
    assert world.audit.reasons == ["allowed"]
    await until(lambda: world.in_use == 0)
    assert not world.upstream.connections
