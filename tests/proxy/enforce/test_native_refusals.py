"""Refusals that the native plane knows: in the same words, within the budget, and never of what is allowed by now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.proxy.enforce import known_refusals
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane.counted import counts_of
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.telemetry.events import MANY, DecisionEvent
from tests.proxy.enforce.refusing import EVIL, NEXT_KEY, Keyring, with_next_key
from tests.proxy.plane.broken_plane import OF_REFUSALS, broken
from tests.proxy.support import (
    HOST,
    Reply,
    World,
    allow,
    connect_head,
    policy,
    upstream,
    world,
)

__all__ = ["broken"]


def natively_refused(w: World) -> int:
    """How often the native plane has refused by itself."""
    assert w.plane is not None
    return sum(counts_of(w.plane._library, each)[0][0] for each in w.plane._refusals.known.values())


async def thrice(w: World, head: bytes) -> Reply:
    """The answer to the third one, which the native plane gives where it may: it is told at the second one."""
    for _ in range(2):
        await w.ask(head)
    return await w.ask(head)


@pytest.fixture
def known_long(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals of the native plane are known for longer than a loaded machine may take."""
    monkeypatch.setattr(known_refusals, "_SECONDS", 3600.0)


@pytest.mark.usefixtures("known_long")
async def test_the_native_plane_refuses_what_was_refused_twice_in_the_same_words() -> None:
    async with world() as w:
        head = connect_head(443, EVIL)
        first = await w.ask(head)
        second, third, fourth = [await w.ask(head) for _ in range(3)]
        assert natively_refused(w) == 2
        told = [str(each.json["decision_id"]) for each in (first, second, third, fourth)]
        assert len(set(told)) == 4
        for each, own in zip((third, fourth), told[2:], strict=True):
            assert str(each).replace(own, told[0]) == str(first)
        assert w.audit.ids == told
        denied = [event for event in w.audit.events if isinstance(event, DecisionEvent)]
        assert {(event.host, event.reason, event.verdict) for event in denied} == {(EVIL, "host_not_allowed", "deny")}


@pytest.mark.usefixtures("known_long")
@pytest.mark.parametrize(
    "other",
    [
        connect_head(443, EVIL, headers="X-Cloned-Tool-Token: forged\r\n"),
        connect_head(443, "other.example.net"),
        connect_head(443, EVIL, headers="X-More: 1\r\n"),
        connect_head(443, EVIL) + b"\x16",
    ],
)
async def test_the_native_plane_refuses_no_other_bytes(other: bytes) -> None:
    async with world() as w:
        await thrice(w, connect_head(443, EVIL))
        assert natively_refused(w) == 1
        await w.ask(other)
        assert natively_refused(w) == 1


@pytest.mark.usefixtures("known_long")
async def test_the_native_plane_refuses_within_the_budget_alone() -> None:
    async with world(denials=4) as w:
        head = connect_head(443, EVIL)
        assert [(await w.ask(head)).status for _ in range(4)] == [403] * 4
        assert natively_refused(w) == 2
        async with asyncio.timeout(60):
            while (await w.ask(head)).status != 429:  # Python adds up what the plane has counted once a second
                pass
        assert natively_refused(w) == 2
        await w.settled()
        assert [event.host for event in w.audit.events if isinstance(event, DecisionEvent)][-1] == MANY


@pytest.mark.usefixtures("known_long")
async def test_a_budget_larger_than_the_plane_can_count_is_no_small_one() -> None:
    async with world(denials=2**64) as w:
        assert (await thrice(w, connect_head(443, EVIL))).status == 403
        assert natively_refused(w) == 1


@pytest.mark.usefixtures("known_long")
async def test_what_the_policy_opens_is_not_refused_natively() -> None:
    async with upstream() as server, world() as w:
        assert (await thrice(w, connect_head(server.port))).status == 403
        w.policies.current = policy(allow(HOST, server.port))
        w.gate.sweep()
        reader, writer = await w.connect()
        writer.write(connect_head(server.port))
        assert (await reader.readline()).split()[1] == b"200"
        writer.transport.abort()


async def _other_host(w: World, _port: int) -> bool:
    await thrice(w, connect_head(443, EVIL))
    return (await w.ask(connect_head(443, "other.example.net"))).json["host"] == "other.example.net"


async def _over_budget(w: World, _port: int) -> bool:
    for _ in range(12):
        await w.ask(connect_head(443, EVIL))
    return natively_refused(w) <= 4


async def _opened(w: World, port: int) -> bool:
    await thrice(w, connect_head(port))
    w.policies.current = policy(allow(HOST, port))
    w.gate.sweep()
    reader, writer = await w.connect()
    writer.write(connect_head(port))
    passes = (await reader.readline()).split()[1] == b"200"
    writer.transport.abort()
    return passes


@pytest.mark.usefixtures("known_long")
@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize(("guard", "holds"), [*zip(OF_REFUSALS, (_other_host, _over_budget, _opened), strict=True)])
async def test_each_guard_of_a_refusal_is_needed(
    guard: str,
    holds: Callable[[World, int], Awaitable[bool]],
    out: bool,
    broken: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = broken(guard if out else "")
    monkeypatch.setattr(library, "find", lambda: path)
    async with upstream() as server, world(denials=6) as w:
        assert await holds(w, server.port) is not out


@pytest.mark.usefixtures("known_long")
async def test_a_log_that_fails_is_a_503_whatever_the_plane_was_told() -> None:
    async with world() as w:
        await thrice(w, connect_head(443, EVIL))
        w.audit.broken = True
        assert (await w.ask(connect_head(443, EVIL))).status == 503


@pytest.mark.usefixtures("known_long")
async def test_a_token_that_is_genuine_by_a_new_key_is_not_refused_natively() -> None:
    keys = Keyring()
    async with world(tokens=keys) as w:
        assert (await thrice(w, with_next_key())).status == 407
        assert natively_refused(w) == 1
        keys.rotate(NEXT_KEY)
        for told in tuple(keys.at_change):
            told()
        assert (await thrice(w, with_next_key())).status == 403


@pytest.mark.usefixtures("known_long")
async def test_what_a_thread_refuses_by_a_verdict_that_is_gone_is_on_record() -> None:
    async with world() as w:
        assert w.plane is not None
        await thrice(w, connect_head(443, EVIL))
        await w.settled()
        entries, numbers = w.plane.entries, list(w.plane._refusals.known)
        entries.forget(numbers)  # as if it had been freed while a thread stood still that has it in hand
        for _ in range(2):
            entries.take()
        entries.forget([])
        assert not entries._events
        told = str((await w.ask(connect_head(443, EVIL))).json["decision_id"])
        assert natively_refused(w) == 2
        await w.settled()
        assert told in w.audit.ids


@pytest.mark.usefixtures("known_long")
async def test_a_listener_does_not_tell_what_another_one_was_told() -> None:
    async with world() as w:
        head = connect_head(443, EVIL)
        await thrice(w, head)
        refused = natively_refused(w)
        own = Listener(bind_tcp("127.0.0.1", 0), Principal("demo@v1"), "slot")
        with contextlib.closing(own.socket):
            await w.gate.open(own)
            reader, writer = await asyncio.open_connection(*own.socket.getsockname())
            writer.write(head)
            assert (await reader.readline()).split()[1] == b"403"
            writer.transport.abort()
            w.gate.close(own)
        assert natively_refused(w) == refused
