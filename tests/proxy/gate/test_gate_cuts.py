"""Open tunnels that a change of the policy, a timeout or the end of the proxy cuts, and those that go on."""

from __future__ import annotations

import asyncio

import pytest

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel
from tests.proxy.support import (
    HOST,
    LOOPBACK,
    Reply,
    allow,
    connect_head,
    hello,
    policy,
    until,
    upstream,
    world,
)

# Revocation, timeouts, stopping.


async def test_a_revoked_tunnel_is_reset_and_the_others_keep_every_byte() -> None:
    async with upstream() as server:
        stays, goes = allow("stays.example", server.port), allow(HOST, server.port)
        async with world(stays, goes) as w:
            w.resolver.table["stays.example"] = (LOOPBACK,)
            kept, kept_writer = await w.tunnel(server.port, "stays.example")
            cut, cut_writer = await w.tunnel(server.port)
            await kept.readexactly(len(hello("stays.example")))
            await cut.readexactly(len(hello()))
            w.policies.current = policy(stays)
            w.gate.sweep()
            with pytest.raises(ConnectionResetError):
                await cut.readexactly(1)
            kept_writer.write(b"x" * 100_000)
            assert await kept.readexactly(100_000) == b"x" * 100_000
            assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]
            kept_writer.close()
            cut_writer.transport.abort()


async def test_a_change_between_the_grant_and_the_hello_revokes_too() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        w.policies.current = policy()
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]
    assert server.received == b""


async def test_a_rule_that_loses_raw_tcp_cuts_its_other_protocols() -> None:
    async with upstream() as server, world(allow(HOST, server.port, raw_tcp=True)) as w:
        reader, writer = await w.tunnel(server.port, first=b"SSH")
        await reader.readexactly(3)
        w.policies.current = policy(allow(HOST, server.port))
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        await w.settled()
        assert w.audit.ends[0].cause == "revoked:protocol_not_allowed"


async def test_a_rule_that_wants_to_look_inside_cuts_a_closed_tunnel() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        w.policies.current = policy(allow(HOST, server.port, methods=frozenset({"GET"})))
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()


async def test_a_review_that_fails_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(grant: Grant) -> object:
        raise RuntimeError("broken on purpose")

    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        monkeypatch.setattr(w.gate.tunnels, "_review", broken)
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        await w.settled()
        assert w.audit.ends[0].cause == "revoked:internal_error"


async def test_a_cut_that_fails_keeps_no_other_tunnel_open(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off, failed = OpenTunnel.cut_off, list[OpenTunnel]()

    def fails_once(self: OpenTunnel, cause: str) -> None:
        if not failed:
            failed.append(self)
            raise RuntimeError("broken on purpose")
        cut_off(self, cause)

    monkeypatch.setattr(OpenTunnel, "cut_off", fails_once)
    async with upstream() as server, world(allow(HOST, server.port), known=False) as w:
        clients = [await w.tunnel(server.port) for _ in range(3)]
        for reader, _ in clients:
            await reader.readexactly(len(hello()))
        w.policies.current = policy()
        w.gate.sweep()
        await until(lambda: len(w.gate.tunnels) == 1)
        w.gate.sweep()
        await until(lambda: len(w.gate.tunnels) == 0)
        for _, writer in clients:
            writer.transport.abort()


@pytest.mark.parametrize(("setting", "cause"), [("idle_timeout", "idle"), ("max_tunnel_seconds", "lifetime")])
async def test_a_tunnel_that_is_idle_or_old_is_cut(setting: str, cause: str) -> None:
    first = hello()  # made before the clock of the tunnel runs: on a busy machine it takes longer than that
    async with upstream() as server, world(allow(HOST, server.port), settings={setting: 0.15}) as w:
        reader, writer = await w.tunnel(server.port, first=first)
        await reader.readexactly(len(first))
        w.gate.sweep()
        assert len(w.gate.tunnels) == 1
        await asyncio.sleep(0.2)
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        await w.settled()
        assert w.audit.ends[0].cause == cause


async def test_draining_waits_for_open_tunnels_then_cuts_them() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        _, silent = await w.connect()
        await asyncio.sleep(0.05)
        address = w.address
        draining = asyncio.ensure_future(w.gate.drain(0.3))
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        await draining
        assert w.gate.idle
        assert [end.cause for end in w.audit.ends] == ["drained"]
        writer.transport.abort()
        silent.transport.abort()


async def test_a_head_that_comes_while_stopping_is_503() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.connect()
        head = connect_head(server.port)
        writer.write(head[:10])
        await asyncio.sleep(0.05)
        w.gate.stop_accepting()
        writer.write(head[10:])
        assert Reply.read(await reader.read()).status == 503
        writer.close()
        assert server.connections == 0
