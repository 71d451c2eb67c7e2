"""Connections to names, at a whole gate on loopback: decided as `CONNECT name:port`, and refused in their own words."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from cloned_proxy.policy.model.model import Limits
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.transport.name_tags import NameTags
from cloned_proxy.proxy.tunnel import transparent as connection
from cloned_proxy.proxy.tunnel.last_words import ACCESS_DENIED
from tests.proxy.slots.dns import NETWORK
from tests.proxy.support import (
    HOST,
    SERVER_HELLO,
    allow,
    connect_head,
    hello,
    policy,
    until,
    upstream,
    world,
)
from tests.proxy.tunnel.dialled import OTHER, TOOL, Slot, slot


def allowed(s: Slot) -> list[tuple[str, int, str, str]]:
    return [(HOST, s.port, "allow", "allowed")]


async def test_tls_under_the_dialled_name_is_a_tunnel_on_record() -> None:
    async with slot() as s:
        reader, writer = await s.dial()
        sent = hello()
        writer.write(sent)
        assert len(await reader.readexactly(len(sent))) == len(sent)
        assert s.w.metrics.open == 1
        writer.close()
        await s.w.settled()
        assert bytes(s.server.received) == sent
        assert s.events == allowed(s)
        assert [end.cause for end in s.w.audit.ends] == ["closed"]


async def test_another_name_in_the_hello_gets_an_alert_and_nothing_goes_upstream() -> None:
    async with slot(OTHER) as s:
        assert await s.ask(hello(OTHER)) == ACCESS_DENIED
        await s.w.settled()
        assert bytes(s.server.received) == b""
        assert s.events == [*allowed(s), (HOST, s.port, "deny", "sni_mismatch")]


async def test_a_hello_without_a_name_gets_an_alert() -> None:
    async with slot() as s:
        assert await s.ask(hello(None)) == ACCESS_DENIED
        assert s.events[-1][3] == "sni_missing"
        assert bytes(s.server.received) == b""


async def test_a_denied_name_gets_an_alert_and_is_never_looked_up() -> None:
    async with slot() as s:
        assert await s.ask(hello(OTHER), OTHER) == ACCESS_DENIED
        assert s.events == [(OTHER, s.port, "deny", "host_not_allowed")]
        assert s.w.resolver.asked == []
        assert s.server.connections == 0


async def test_a_name_that_leads_to_an_address_that_is_not_allowed_gets_an_alert() -> None:
    async with slot(addresses=frozenset()) as s:
        assert await s.ask(hello()) == ACCESS_DENIED
        assert s.events == [(HOST, s.port, "deny", "address_not_allowed")]
        assert s.server.connections == 0


async def test_a_port_that_names_and_the_proxy_share_is_told_apart_by_the_address() -> None:
    """Where ports are not steered, the slot's 8081 listens on all addresses."""
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        tags = NameTags(NETWORK)
        everywhere = bind_tcp("0.0.0.0", 0)
        port = everywhere.getsockname()[1]
        await w.gate.open(Listener(everywhere, TOOL, "slot", tags))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(connect_head(server.port) + hello())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await reader.readexactly(1))[0] == SERVER_HELLO[0]
        writer.close()
        reader, writer = await asyncio.open_connection(str(tags.address_of(HOST)), port)
        writer.write(connect_head(server.port))
        assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_where_only_names_are_served_nobody_finds_a_proxy() -> None:
    async with world() as w:
        everywhere = bind_tcp("0.0.0.0", 0)
        await w.gate.open(Listener(everywhere, TOOL, "slot", NameTags(NETWORK), only_names=True))
        reader, writer = await asyncio.open_connection(*("127.0.0.1", everywhere.getsockname()[1]))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("rule", [{"raw_tcp": True}, {"only_ssh": True}], ids=["tcp", "ssh"])
async def test_where_a_rule_wants_no_tls_the_server_may_speak_first(rule: dict[str, bool]) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-test\r\n")
        await writer.drain()
        await reader.read()

    async with upstream(greet) as server, world(allow(HOST, server.port, **rule)) as w:
        tags = NameTags(NETWORK)
        await w.gate.open(Listener(bind_tcp(str(tags.address_of(HOST)), server.port), TOOL, "slot", tags))
        reader, writer = await asyncio.open_connection(str(tags.address_of(HOST)), server.port)
        assert await reader.readline() == b"SSH-2.0-test\r\n"
        writer.close()
        await w.settled()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 403 protocol_not_allowed: its rule lets SSH pass"),
        (hello(), ACCESS_DENIED),
        (b"HELO a\r\n", b"reset"),
    ],
)
async def test_under_a_rule_for_ssh_nothing_else_passes(data: bytes, told: bytes) -> None:
    async with slot(only_ssh=True) as s:
        assert (await s.ask(data)).startswith(told)
        assert s.events[-1] == (HOST, s.port, "deny", "protocol_not_allowed")
        assert bytes(s.server.received) == b""


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
async def test_what_is_neither_tls_nor_http_is_refused_with_a_reset(data: bytes) -> None:
    async with slot() as s:
        assert await s.ask(data) == b"reset"
        assert s.events[-1] == (HOST, s.port, "deny", "protocol_not_allowed")
        assert bytes(s.server.received) == b""


async def test_a_silent_client_of_a_denied_name_is_refused_soon_and_on_record() -> None:
    async with slot() as s:
        assert await s.ask(b"", OTHER) == b"reset"
        assert s.events == [(OTHER, s.port, "deny", "host_not_allowed")]


async def test_an_address_that_stands_for_nothing_is_reset() -> None:
    async with slot() as s:
        stale = str(s.tags.address_of(HOST))
        for number in range(5000):
            s.tags.address_of(f"n{number}.example.com")
        reader, writer = await asyncio.open_connection(stale, s.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert s.events == []


async def test_a_rule_that_goes_cuts_the_connection_and_refuses_the_next() -> None:
    async with slot() as s:
        reader, writer = await s.dial()
        sent = hello()
        writer.write(sent)
        await reader.readexactly(len(sent))
        s.w.policies.current = replace(policy(), version="v2")
        s.w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert await s.ask(hello()) == ACCESS_DENIED
        await s.w.settled()
        assert [end.cause for end in s.w.audit.ends] == ["revoked:host_not_allowed"]


async def test_report_mode_lets_it_pass_and_records_name_and_port() -> None:
    async with slot() as s:
        s.w.policies.current = policy(allow(HOST, s.port), mode=Mode.REPORT)
        reader, writer = await s.dial()
        writer.write(b"SSH-2.0-test\r\n")
        assert await reader.readline() == b"SSH-2.0-test\r\n"
        assert s.events == [*allowed(s), (HOST, s.port, "report", "protocol_not_allowed")]
        writer.close()


async def test_the_listeners_of_one_run_share_one_share_of_the_places() -> None:
    async with upstream() as server, world(allow(HOST, server.port), max_connections=5) as w:
        tags = NameTags(NETWORK)
        addresses = [tags.address_of(name) for name in (HOST, OTHER)]
        for address in addresses:
            await w.gate.open(Listener(bind_tcp(str(address), server.port), TOOL, "slot", tags))
        async with contextlib.AsyncExitStack() as stack:
            for number in range(4):
                _, writer = await asyncio.open_connection(str(addresses[number % 2]), server.port)
                stack.callback(writer.close)
            _, fifth = await asyncio.open_connection(str(addresses[0]), server.port)
            stack.callback(fifth.close)
            listeners = [listener for listener in w.gate._doors if listener.names is tags]
            await until(lambda: any(w.gate._room.is_wanted(each, contended=True) for each in listeners))
            reader, writer = await w.connect()  # a place is left to others
            stack.callback(writer.close)
            writer.write(connect_head(server.port))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_limits_count_it() -> None:
    async with slot(limits=Limits(concurrent=1)) as s:
        reader, writer = await s.dial()
        sent = hello()
        writer.write(sent)
        await reader.readexactly(len(sent))
        assert await s.ask(hello()) == ACCESS_DENIED
        assert s.events[-1][3] == "limit_exceeded"
        writer.close()


async def test_the_idle_are_cut() -> None:
    async with upstream() as server, world(allow(HOST, server.port), idle_timeout=0.01) as w:
        tags = NameTags(NETWORK)
        await w.gate.open(Listener(bind_tcp(str(tags.address_of(HOST)), server.port), TOOL, "slot", tags))
        reader, writer = await asyncio.open_connection(str(tags.address_of(HOST)), server.port)
        sent = hello()
        writer.write(sent)
        await reader.readexactly(len(sent))

        def cut() -> bool:
            w.gate.sweep()
            return bool(w.audit.ends)

        await until(cut)
        assert w.audit.ends[0].cause == "idle"
        writer.close()


async def test_every_cut_of_the_first_bytes_is_read_the_same() -> None:
    for data in (hello(), b"x"):
        for at in range(1, min(len(data), 9)):
            async with slot() as s:
                reader, writer = await s.dial()
                writer.write(data[:at])
                await writer.drain()
                writer.write(data[at:])
                assert (await reader.readexactly(1))[0] == SERVER_HELLO[0]
                writer.close()
            if len(data) == 1:
                break


async def test_a_build_that_takes_the_first_name_for_the_last_lets_another_one_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attack of the second test, where the gate does not look at the hello: the canary is reached."""
    monkeypatch.setattr("cloned_proxy.proxy.tunnel.connect_tunnel.decide_tunnel", lambda decision, _names: decision)
    async with slot(OTHER) as s:
        reader, writer = await s.dial()
        sent = hello(OTHER)
        writer.write(sent)
        await reader.readexactly(1)
        assert bytes(s.server.received) == sent
        writer.close()


def test_speech_is_told_by_a_whole_request_line() -> None:
    def speech(data: bytes) -> str:
        return connection._speech_of(bytearray(data), 65_536).name

    assert speech(b"\x16") == "TLS"
    assert speech(b"GET / HTTP/1.1\r\n") == speech(b"OPTIONS * HTTP/1.0\n") == "HTTP"
    for part in (b"G", b"GET", b"GET ", b"GET /a", b"GET /a HTTP/1.1", b"GET /a HTTP/1.1\r"):
        assert speech(part) == "UNKNOWN", part
    for other in (
        b"SSH-2.0-x\r\n",
        b"EHLO me\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"\0",
        b"\r\n",
    ):
        assert speech(other) == "OTHER", other
    assert speech(b"GET /" + b"a" * 65_536) == "OTHER"
