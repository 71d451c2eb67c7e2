"""What breaks inside refuses the request. Each way to break it here, judged by the bytes at the upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.inspection.connections import heads
from cloned_proxy.proxy.inspection.http1 import connection as connection_module
from cloned_proxy.proxy.inspection.http1.exchange import Exchange
from cloned_proxy.proxy.inspection.requests import stream
from cloned_proxy.proxy.inspection.requests.admission import Admission
from cloned_proxy.proxy.inspection.upstream import pool, upstream_h1
from tests.proxy.inspection.support import Upstream, World
from tests.proxy.support import until

type Handler = Callable[..., Any]

_PATIENCE = 50.0
"""Seconds after which a client counts as left hanging; a loaded machine may take some."""


def raising(error: BaseException) -> Handler:
    async def handler(*args: Any, **options: Any) -> None:
        raise error

    return handler


async def returns_nothing(*args: Any) -> None:
    pass


BROKEN = [
    pytest.param(raising(RuntimeError("broken")), id="exception"),
    pytest.param(raising(asyncio.CancelledError()), id="cancelled"),
    pytest.param(lambda *args: None, id="not-a-coroutine"),
    pytest.param(returns_nothing, id="no-decision"),
]


def breaks(*_: object, **__: object) -> Any:
    raise RuntimeError("broken")


@pytest.mark.parametrize("handler", BROKEN)
async def test_a_broken_decision_forwards_nothing(
    world: World, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admission, "admit", handler)
    answer = await world.talk(world.get(), seconds=2)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections
    await until(lambda: world.in_use == 0)


@pytest.mark.parametrize(
    ("where", "name"),
    [(pool, "_check"), (pool.Pool, "connection"), (pool.Pool, "_connect"), (pool, "reach"), (stream, "request_fields")],
)
async def test_a_part_that_breaks_before_the_dial_forwards_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    monkeypatch.setattr(where, name, breaks)
    assert (await world.talk(world.get())).startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections
    await until(lambda: world.in_use == 0)
    assert [end.cause for end in world.audit.ends] == ["internal_error"]


async def test_a_broken_decision_on_a_kept_alive_connection_cannot_use_the_open_upstream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, calls = Admission.admit, []

    async def once(self: Admission, *args: Any) -> Any:
        calls.append(args)
        return await admit(self, *args) if len(calls) == 1 else None

    monkeypatch.setattr(Admission, "admit", once)
    await world.talk(world.get("/first") + world.get("/second"))
    assert "/first" in world.upstream.text
    assert "/second" not in world.upstream.text


async def test_without_the_admission_nothing_is_forwarded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Admission, "admit")
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections


def _changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """What is admitted is changed behind the admission."""
    admit = Admission.admit

    async def changed(self: Admission, *args: Any) -> Any:
        admitted, filters = await admit(self, *args)  # type: ignore[misc]  # nothing is turned away here
        change(admitted)
        return admitted, filters

    monkeypatch.setattr(Admission, "admit", changed)


async def test_a_dial_to_anything_but_the_granted_target_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Upstream()

    def redirect(admitted: Any) -> None:
        decision = replace(admitted.grant.decision, request=Request("api.test", other.port, "GET", "/"))
        admitted.grant = replace(admitted.grant, decision=decision)

    _changed(monkeypatch, redirect)
    async with await other.start(world.server_tls()):
        assert (await world.talk(world.get())).startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections
    assert not other.connections


async def test_a_dial_whose_grant_was_given_back_in_between_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _changed(monkeypatch, lambda admitted: world.enforcer.finish(admitted.grant, "revoked:host_not_allowed"))
    await world.talk(world.get())
    assert not world.upstream.connections
    assert [end.cause for end in world.audit.ends] == ["revoked:host_not_allowed"]


@pytest.mark.parametrize(
    ("where", "name"),
    [(Admission, "examine"), (Exchange, "_begin"), (heads, "seen_of"), (upstream_h1, "parse_response")],
)
async def test_a_part_that_breaks_behind_the_response_closes_the_client(
    world: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    monkeypatch.setattr(where, name, breaks)
    async with asyncio.timeout(_PATIENCE):
        answer = await world.talk(world.get())
    assert b"200 OK" not in answer
    await until(lambda: world.in_use == 0)


@pytest.mark.parametrize(
    ("where", "name"),
    [(connection_module, "parse_head"), (connection_module, "Exchange"), (Exchange, "run")],
)
async def test_a_crash_of_the_reader_does_not_leave_the_client_hanging(
    world: World, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    monkeypatch.setattr(where, name, breaks)
    async with asyncio.timeout(_PATIENCE):
        answer = await world.talk(world.get())
    assert b"200 OK" not in answer
    assert not world.upstream.connections
    await until(lambda: world.in_use == 0)


async def test_a_grant_that_comes_after_its_connection_has_ended_is_given_back(world: World) -> None:
    world.hold_decisions()
    client = asyncio.create_task(world.talk(world.get()))
    async with asyncio.timeout(5):
        await world.audit.asked.wait()
    await world.inspector.close()
    world.audit.free.set()
    await client
    await until(lambda: world.in_use == 0)
    assert not world.upstream.connections


@pytest.mark.parametrize("sent", ["GET / HTTP/1.1\r\nHost:", "no\x01thing\r\n\r\n"], ids=["late", "malformed"])
async def test_a_refusal_that_cannot_be_recorded_does_not_leave_the_client_hanging(
    world: World, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    monkeypatch.setattr(Admission, "refuse_head", breaks)
    async with asyncio.timeout(_PATIENCE):
        assert await world.talk(sent.encode()) == b""
    assert not world.upstream.connections
