"""Plain HTTP through a proxy in front: in absolute form, and a tool neither sees that proxy nor gets its credential."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace

import pytest

from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.upstream.chained import traces
from cloned_proxy.proxy.wire import fields
from cloned_proxy.proxy.wire.response import ResponseHead
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from tests.proxy.plain.support import Message, answering, client, read_message, request
from tests.proxy.support import HOST, Upstream, World, allow, until, upstream, world
from tests.proxy.upstream.chained.fronts import BASIC, OPEN, TARGET, Front, front, vault

AUTH = "${vault:upstream.proxy}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ahead_of(server: Upstream, **more: object) -> UpstreamSettings:
    return Front([], answering(OK), server.port).settings(**more)


def reply(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "Content-Length: 2", "", "ok")).encode()


async def test_a_request_goes_in_absolute_form_with_the_vaults_credential() -> None:
    seen: list[Message] = []
    async with (
        upstream(answering(OK, seen=seen)) as server,
        world(allow(HOST, 8080), front=ahead_of(server, auth=AUTH), secrets=vault(), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(request(8080, "/a?b", headers="Proxy-Connection: keep-alive\r\n", method="POST", body=b"body"))
            assert (await read_message(reader)).body == b"ok"
    assert [(m.line, m.one("host"), m.one("proxy-authorization"), m.body) for m in seen] == [
        ("POST http://api.example.com:8080/a?b HTTP/1.1", "api.example.com:8080", BASIC, b"body")
    ] * 2
    assert server.connections == 1  # kept for the next request of the same caller to the same place
    assert not seen[0].all("proxy-connection")


async def test_options_for_the_server_as_a_whole_has_no_path() -> None:
    seen: list[Message] = []
    async with (
        upstream(answering(OK, seen=seen)) as server,
        world(allow(HOST, 80), front=ahead_of(server), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(f"OPTIONS http://{HOST} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert (await read_message(reader)).status == 200
    assert seen[0].line == "OPTIONS http://api.example.com HTTP/1.1"


@pytest.mark.parametrize(("addresses", "status"), [((TARGET,), 200), ((ipaddress.ip_address("10.0.0.5"),), 403)])
async def test_addresses_are_checked_here_before_the_name_is_sent(
    addresses: tuple[ipaddress.IPv4Address, ...], status: int
) -> None:
    rule = allow(HOST, 80, addresses=frozenset())
    async with (
        upstream(answering(OK)) as server,
        world(rule, front=ahead_of(server), addresses=addresses) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(80))
        assert (await read_message(reader)).status == status
    assert server.connections == (status == 200)


async def trace(w: World) -> Message:
    async with client(w) as (reader, writer):
        writer.write(request(80, method="TRACE", headers="Max-Forwards: 0\r\n"))
        return await read_message(reader)


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_tool_cannot_have_its_request_mirrored_by_the_front(
    guarded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `Max-Forwards: 0` the front is the final recipient of a TRACE, and sends back what it got."""
    if not guarded:
        monkeypatch.setattr(fields, "_FOR_THE_NEXT_PROXY", frozenset())
    seen: list[Message] = []
    async with (
        upstream(answering(OK, seen=seen)) as server,
        world(allow(HOST, 80), front=ahead_of(server, auth=AUTH), secrets=vault(), addresses=(TARGET,)) as w,
    ):
        await trace(w)
    assert seen[0].all("max-forwards") == ([] if guarded else ["0"])


OWN_ANSWERS = {
    "407": (reply('Proxy-Authenticate: Basic realm="corp"', status="407 Proxy Authentication Required"), 502, 407),
    "Squid": (reply("Server: squid/5.7", "X-Squid-Error: ERR_DNS_FAIL 0", status="503 Service Unavailable"), 502, 503),
    "tinyproxy": (reply("Server: tinyproxy/1.11.1", status="500 Unable to connect"), 502, 500),
    "mitmproxy": (reply("Server: mitmproxy 12.3.1", status="502 Bad Gateway"), 502, 502),
    "504": (reply("X-Squid-Error: ERR_READ_TIMEOUT 0", status="504 Gateway Timeout"), 504, 504),
}


@pytest.mark.parametrize("who", OWN_ANSWERS)
async def test_what_the_front_says_in_its_own_name_is_no_answer_to_the_tool(who: str) -> None:
    answer, status, theirs = OWN_ANSWERS[who]
    async with (
        upstream(answering(answer)) as server,
        world(allow(HOST, 80), front=ahead_of(server), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(80))
        message = await read_message(reader)
        assert (message.status, b'"phase":"upstream_proxy"' in message.body) == (status, True)
        assert not message.all("proxy-authenticate")
        assert not message.all("server")
        await until(lambda: bool(w.audit.ends))
        assert [end.cause for end in w.audit.ends] == [f"upstream_error:upstream_proxy:{theirs}"]


async def test_control_without_the_guard_its_own_answer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloned_proxy.proxy.http1.incoming.without_traces", lambda response: response)
    async with (
        upstream(answering(OWN_ANSWERS["407"][0])) as server,
        world(allow(HOST, 80), front=ahead_of(server), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(80))
        assert (await read_message(reader)).status == 407


async def test_what_the_front_leaves_of_itself_in_a_servers_answer_is_taken_out() -> None:
    answer = reply(
        "Via: 1.1 squid.corp.example (squid/5.7)", "X-Cache: MISS from squid.corp.example", "Server: squid/5.7",
        "X-Cache-Lookup: MISS from squid.corp.example:3128", "Cache-Status: squid.corp.example;fwd=miss", "X-Mine: 1",
        "Proxy-Connection: keep-alive",
    )  # fmt: skip
    async with (
        upstream(answering(answer)) as server,
        world(allow(HOST, 80), front=ahead_of(server), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(80))
        message = await read_message(reader)
    assert message.status == 200
    assert sorted(name.lower() for name, _ in message.fields) == ["content-length", "server", "via", "x-mine"]
    assert message.one("via") == "1.1 cloned-proxy"


async def test_a_websocket_goes_through_a_tunnel_to_the_checked_address() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi"

    async def behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead.received += await reader.readuntil(b"\r\n\r\n")
        writer.write(switched)
        ahead.received += await reader.read(100)

    async with (
        front(OPEN, behind=behind) as ahead,
        world(allow(HOST, 80), front=ahead.settings(), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(80, headers="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n"))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"hi"
        writer.write(b"frames")
        await until(lambda: ahead.received.endswith(b"frames"))
    assert ahead.heads[0].startswith(b"CONNECT 93.184.216.10:80 HTTP/1.1\r\n")
    assert ahead.received.startswith(b"GET / HTTP/1.1\r\nhost: api.example.com\r\n")


async def test_a_front_that_upgrades_what_did_not_ask_for_it_is_refused() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with (
        upstream(answering(switched)) as server,
        world(allow(HOST, 80), front=ahead_of(server), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(80))
        assert (await read_message(reader)).status == 502
        assert w.troubles == ["malformed"]


async def test_one_callers_connection_is_never_anothers_and_goes_with_its_rule() -> None:
    async with (
        upstream(answering(OK)) as server,
        world(allow(HOST, 80), allow(HOST, 81), front=ahead_of(server), addresses=(TARGET,)) as w,
        client(w) as (reader, writer),
    ):
        for port in (80, 81):
            writer.write(request(port))
            assert (await read_message(reader)).status == 200
        assert server.connections == 2
        current = w.policies.current
        assert current is not None
        w.policies.current = replace(current, global_scope=type(current.global_scope)())
        w.gate.sweep()
        writer.write(request(80))
        assert (await read_message(reader)).status == 403
        assert server.connections == 2


async def test_by_name_a_secret_is_not_sent_in_the_clear_to_who_knows_where() -> None:
    """Ports other than 80 are for addresses that are not public, and of one that is sent by name none is known."""
    rule = allow(HOST, 8080, inject=Inject("Authorization", "Bearer ${vault:upstream.proxy}"))
    async with (
        upstream(answering(OK)) as server,
        world(rule, front=ahead_of(server, resolve="upstream"), secrets=vault()) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(8080))
        assert (await read_message(reader)).status == 403
    assert server.connections == 0


def test_a_servers_own_squid_is_its_answer_while_it_is_no_error() -> None:
    ok = ResponseHead(200, 1, b"OK", [b"Server: squid/5.7\r\n"], None, False, True, b"")
    assert traces.without_traces(ok).lines == [b"Server: squid/5.7\r\n"]
