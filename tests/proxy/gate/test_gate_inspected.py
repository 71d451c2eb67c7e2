"""Tunnels that are handed to the inspection behind their hello, and steps that raise: nothing is forwarded."""

from __future__ import annotations

import asyncio

import pytest

from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.tunnel import client, connect_tunnel
from cloned_proxy.proxy.upstream import ways
from tests.proxy.support import (
    DEMO,
    HOST,
    LOOPBACK,
    PLAIN,
    Reply,
    allow,
    connect_head,
    hello,
    policy,
    upstream,
    world,
)


async def test_plain_http_where_tls_would_be_opened_gets_it_too_and_a_tool_inside_no_command() -> None:
    inspector = FakeInspector()
    async with world(INSPECTED, inspector=inspector, principal=DEMO) as w:
        reader, writer = await w.tunnel(443, first=PLAIN)
        reply = Reply.read(await reader.read())
        assert (reply.status, reply.json["reason"]) == (403, "protocol_not_allowed")
        assert reply.json["hint"] == "a tunnel carries TLS only; send plain HTTP to the proxy without CONNECT"
        writer.transport.abort()
        await w.settled()
    assert inspector.tunnels == []


# Handing over to the inspection.


class FakeInspector:
    def __init__(self) -> None:
        self.tunnels: list[Grant] = []

    async def serve_tunnel(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tunnels.append(grant)
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    def sweep(self) -> None:
        pass

    def drain(self) -> None:
        pass

    async def close(self) -> None:
        pass


INSPECTED = allow(HOST, 443, methods=frozenset({"GET"}))


async def test_a_large_first_segment_is_handed_over_whole() -> None:
    async with world(INSPECTED, inspector=FakeInspector()) as w:
        first = hello() + b"b" * 1_000_000
        reader, writer = await w.tunnel(443, first=first)
        writer.write_eof()
        assert await reader.read() == first
        writer.close()


async def test_an_inspected_connect_is_handed_over_behind_its_hello_and_not_dialled() -> None:
    inspector = FakeInspector()
    async with upstream() as server:
        rule = allow(HOST, server.port, methods=frozenset({"GET"}))
        async with world(rule, inspector=inspector) as w:
            reader, writer = await w.tunnel(server.port)
            assert (await reader.readexactly(3)) == b"\x16\x03\x01"
            assert inspector.tunnels[0].decision.inspect
            assert len(w.gate.tunnels) == 1
            writer.close()
            await w.settled()
        assert server.connections == 0
    assert [end.cause for end in w.audit.ends] == ["closed"]


async def test_an_inspection_whose_hello_came_before_its_decision_ends_with_its_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gate had forgotten such a client while it was served: neither the end of its sandbox nor a drain cut it."""
    asked, decided = asyncio.Event(), asyncio.Event()

    async def resolve(_host: Host, _tool: str | None = None) -> tuple[Address, ...]:
        asked.set()
        await decided.wait()
        return (LOOPBACK,)

    async with world(INSPECTED, inspector=FakeInspector()) as w:
        monkeypatch.setattr(w.resolver, "resolve", resolve)
        reader, writer = await w.connect()
        writer.write(connect_head(443) + hello())
        await asked.wait()
        decided.set()
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(hello()))
        assert len(w.gate._connections) == 1
        w.gate.close(w.listener)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["listener_closed"]


async def test_an_inspected_connect_with_another_name_is_not_handed_over() -> None:
    inspector = FakeInspector()
    async with world(allow(HOST, 443, methods=frozenset({"GET"})), inspector=inspector) as w:
        reader, writer = await w.tunnel(443, first=hello("evil.example"))
        assert await reader.read() == b"\x15\x03\x03\x00\x02\x02\x31"
        writer.close()
    assert inspector.tunnels == []


async def test_a_revoked_inspected_tunnel_is_reset() -> None:
    async with world(allow(HOST, 443, methods=frozenset({"GET"})), inspector=FakeInspector()) as w:
        reader, writer = await w.tunnel(443)
        await reader.readexactly(len(hello()))
        w.policies.current = policy()
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        await w.settled()
        assert w.audit.ends[0].cause == "revoked:host_not_allowed"


async def test_without_an_inspection_what_needs_it_is_503() -> None:
    async with world(INSPECTED) as w:
        reply = await w.ask(connect_head(443))
        assert (reply.status, reply.json["reason"]) == (503, "internal_error")


# Breaking the hooks: whatever fails, nothing goes up.


def raising(*args: object, **kwargs: object) -> object:
    raise RuntimeError("broken on purpose")


BREAKABLE: dict[str, tuple[object, str]] = {
    "identify": (connect_tunnel, "identify"),
    "decide_tunnel": (connect_tunnel, "decide_tunnel"),
    "the hello reader": (connect_tunnel, "ClientHelloReader"),
    "dial": (ways, "Dial"),
    "the relay": (connect_tunnel, "Relay"),
    "the head parser": (client, "parse_head"),
}


@pytest.mark.parametrize(("owner", "name"), BREAKABLE.values(), ids=BREAKABLE.keys())
async def test_a_broken_step_closes_and_forwards_nothing(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, raising)
    async with upstream() as server, world(allow(HOST, server.port), known=False) as w:
        reader, writer = await w.connect()
        writer.write(connect_head(server.port) + hello())
        with pytest.raises(ConnectionError):
            await reader.readuntil(b"nothing that comes")
        writer.transport.abort()
        await w.settled()
        assert all(end.cause == "internal_error" for end in w.audit.ends)
        assert len(w.audit.ends) == len(w.audit.verdicts)
    assert server.received == b""


@pytest.mark.parametrize("name", ["authorise", "amend", "refuse"])
async def test_a_broken_enforcer_closes_and_forwards_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream() as server, world(allow(HOST, server.port), known=False) as w:
        monkeypatch.setattr(w.enforcer, name, raising)
        reader, writer = await w.connect()
        writer.write((b"X\r\n\r\n" if name == "refuse" else connect_head(server.port)) + hello("evil.example"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"nothing that comes")
        writer.transport.abort()
    assert server.received == b""


async def test_an_inspector_that_fails_closes_the_client() -> None:
    inspector = FakeInspector()
    inspector.serve_tunnel = raising  # type: ignore[assignment,method-assign]
    async with world(INSPECTED, inspector=inspector) as w:
        reader, writer = await w.tunnel(443)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.transport.abort()
