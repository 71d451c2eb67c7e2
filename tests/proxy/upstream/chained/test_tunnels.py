"""Tunnels through a proxy in front: where they go, and what becomes of everything it can answer."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from dataclasses import replace

import pytest

from cloned_proxy.proxy.tunnel import connect_tunnel
from cloned_proxy.proxy.upstream.chained import connect_answer
from tests.free_port import free_port
from tests.proxy.support import HOST, allow, connect_head, hello, until, upstream, world
from tests.proxy.upstream.chained.asking import AUTH, refused, reset, rule
from tests.proxy.upstream.chained.fronts import BASIC, OPEN, TARGET, Front, front, vault

PAGE = b"<html>Welcome to the hotel</html>"


async def test_a_tunnel_goes_to_the_checked_address() -> None:
    async with front() as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        reader, writer = await w.tunnel(443)
        await reader.readexactly(len(hello()))
        writer.write(b"more")
        assert await reader.readexactly(4) == b"more"
        writer.close()
        await w.settled()
    assert ahead.heads == [b"CONNECT 93.184.216.10:443 HTTP/1.1\r\nHost: 93.184.216.10:443\r\n\r\n"]
    assert ahead.received.endswith(b"more")
    assert w.troubles == []


async def test_an_ipv6_address_stands_in_brackets() -> None:
    six = ipaddress.ip_address("2606:2800:220:1::10")
    async with front() as ahead, world(rule(), front=ahead.settings(), addresses=(six,)) as w:
        _, writer = await w.tunnel(443)
        writer.close()
        await w.settled()
    assert ahead.heads[0].startswith(
        b"CONNECT [2606:2800:220:1::10]:443 HTTP/1.1\r\nHost: [2606:2800:220:1::10]:443\r\n"
    )


async def test_the_credential_is_the_vaults_and_the_tools_own_is_not_passed_on() -> None:
    async with (
        front() as ahead,
        world(rule(), front=ahead.settings(auth=AUTH), secrets=vault(), addresses=(TARGET,)) as w,
    ):
        reader, writer = await w.connect()
        writer.write(connect_head(443, headers="Proxy-Connection: keep-alive\r\nX-Of-A-Tool: 1\r\n"))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await w.settled()
    _, *fields = ahead.heads[0].decode().removesuffix("\r\n\r\n").split("\r\n")
    assert fields == ["Host: 93.184.216.10:443", f"Proxy-Authorization: {BASIC}"]


@pytest.mark.parametrize("value", [None, "no-colon"])
async def test_without_a_usable_credential_nothing_is_asked(value: str | None) -> None:
    held = vault()
    held.values = {} if value is None else {"upstream.proxy": value}
    async with (
        front() as ahead,
        world(rule(), front=ahead.settings(auth=AUTH), secrets=held, addresses=(TARGET,)) as w,
    ):
        answer = await refused(w, ahead)
    assert (answer["status"], answer["phase"]) == (502, "upstream_proxy")
    assert ahead.heads == []
    assert w.troubles == ["credential"]


def _body(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


LIES: dict[str, tuple[bytes, str, int]] = {
    "407": (_body("HTTP/1.1 407 Auth\nProxy-Authenticate: Basic\nContent-Length: 0\n\n"), "credential:407", 502),
    "403": (_body("HTTP/1.1 403 Forbidden\nServer: squid/5.7\nContent-Length: 0\n\n"), "refused:403", 502),
    "302": (_body("HTTP/1.1 302 Found\nLocation: http://corp.example/\nContent-Length: 0\n\n"), "refused:302", 502),
    "502": (_body("HTTP/1.1 502 Bad Gateway\nContent-Length: 0\n\n"), "refused:502", 502),
    "504": (_body("HTTP/1.1 504 Gateway Timeout\nContent-Length: 0\n\n"), "refused:504", 504),
    "101": (_body("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\n"), "malformed", 502),
    "too many interim": (_body("HTTP/1.1 100 Continue\n\n") * 9 + OPEN, "malformed", 502),
    "200 with a page": (_body(f"HTTP/1.1 200 OK\nContent-Length: {len(PAGE)}\n\n") + PAGE, "malformed:200", 502),
    "200 with a page that comes later": (_body("HTTP/1.1 200 OK\nContent-Length: 33\n\n"), "malformed:200", 502),
    "200 in chunks": (_body("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"), "malformed:200", 502),
    "200 and bytes": (OPEN + PAGE, "malformed:200", 502),
    "200 and another 200": (OPEN + OPEN, "malformed:200", 502),
    "204": (_body("HTTP/1.1 204 No Content\n\n"), "malformed:204", 502),
    "two lengths": (_body("HTTP/1.1 200 OK\nContent-Length: 0\nContent-Length: 0\n\n"), "malformed", 502),
    "bare LF": (b"HTTP/1.1 200 OK\n\n", "malformed", 502),
    "a folded line": (_body("HTTP/1.1 200 OK\nVia: a\n b\n\n"), "malformed", 502),
    "HTTP/2": (_body("HTTP/2 200 OK\n\n"), "malformed", 502),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed", 502),
    "an endless head": (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 9000, "malformed", 502),
    "a megabyte of head": (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 1_000_000, "malformed", 502),
    "too many fields": (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 201 + b"\r\n", "malformed", 502),
    "nothing": (b"", "unreachable", 502),
}  # fmt: skip


async def _close_soon(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()


@pytest.mark.parametrize("lie", LIES)
async def test_what_is_no_tunnel_is_refused_and_nothing_of_the_client_leaves(lie: str) -> None:
    answer, expected, status = LIES[lie]
    trouble, _, code = expected.partition(":")
    behind = _close_soon if lie == "nothing" else None
    async with front(answer, behind=behind) as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        told = await refused(w, ahead)
    assert (told["status"], told["phase"]) == (status, "upstream_proxy")
    assert w.troubles == [trouble]
    # The status is for the record alone.
    assert [end.cause for end in w.audit.ends] == ["upstream_error:upstream_proxy" + (f":{code}" if code else "")]
    assert code not in json.dumps({k: v for k, v in told.items() if k not in ("status", "decision_id")}) or not code


async def test_control_a_client_as_rfc_9110_has_it_puts_the_page_into_the_tunnel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect_answer.ConnectAnswer, "_check_opens", lambda *_, **__: None)
    monkeypatch.setattr(connect_tunnel, "HelloGuard", lambda *_: None)
    async with front(OPEN + PAGE) as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        reader, writer = await w.tunnel(443)
        assert await reader.readexactly(len(PAGE)) == PAGE
        writer.close()


async def test_an_answer_in_pieces_behind_interim_ones_opens_the_tunnel() -> None:
    interim = _body("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </>\n\n")
    whole = interim + _body("HTTP/1.0 200 OK\nVia: 1.0 x\n\n")

    async def piecewise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in whole:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        await ahead.record_and_echo(reader, writer)

    async with (
        front(b"", behind=piecewise) as ahead,
        world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w,
    ):
        reader, writer = await w.tunnel(443)
        assert len(await reader.readexactly(len(hello()))) == len(hello())
        writer.close()


async def test_where_the_server_may_speak_first_its_bytes_behind_the_answer_are_the_tunnels() -> None:
    banner = b"SSH-2.0-OpenSSH_9.2\r\n"
    async with (
        front(OPEN + banner) as ahead,
        world(rule(raw_tcp=True), front=ahead.settings(), addresses=(TARGET,)) as w,
    ):
        reader, writer = await w.tunnel(443, first=b"")
        assert await reader.readexactly(len(banner)) == banner
        writer.write(b"mine")
        assert await reader.readexactly(4) == b"mine"
        writer.close()


async def test_an_address_that_the_front_cannot_reach_gives_way_to_the_next() -> None:
    other = ipaddress.ip_address("2606:2800:220:1::10")
    bad = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    async with front(bad, OPEN) as ahead, world(rule(), front=ahead.settings(), addresses=(other, TARGET)) as w:
        _, writer = await w.tunnel(443)
        writer.close()
        await w.settled()
    assert [head.split()[1] for head in ahead.heads] == [b"[2606:2800:220:1::10]:443", b"93.184.216.10:443"]


async def test_a_refusal_is_final_whatever_other_addresses_there_are() -> None:
    other = ipaddress.ip_address("93.184.216.11")
    async with (
        front(LIES["403"][0], OPEN) as ahead,
        world(rule(), front=ahead.settings(), addresses=(TARGET, other)) as w,
    ):
        assert (await refused(w, ahead))["status"] == 502
    assert len(ahead.heads) == 1


async def test_a_front_that_keeps_silent_is_504() -> None:
    async with (
        front(b"") as ahead,
        world(rule(), front=ahead.settings(), addresses=(TARGET,), connect_timeout=0.2) as w,
    ):
        told = await refused(w, ahead)
    assert (told["status"], told["phase"], w.troubles) == (504, "upstream_proxy", ["timed_out"])


async def test_while_the_front_is_down_nothing_goes_directly() -> None:
    """The name resolves to a server that could be reached; only what `no_proxy` names is."""
    settings = Front([], _close_soon, free_port()).settings()
    async with upstream() as server:
        beside = ipaddress.ip_address("127.0.0.1")
        rules = allow(HOST, server.port)
        async with world(rules, front=settings, addresses=(TARGET,)) as w:
            reply = await w.ask(connect_head(server.port))
            assert (reply.status, reply.json["phase"], w.troubles) == (502, "upstream_proxy", ["unreachable"])
        assert server.connections == 0
        async with world(rules, front=settings, addresses=(beside,)) as w:  # this machine's own: never chained
            _, writer = await w.tunnel(server.port)
            writer.close()
        assert server.connections == 1


# The ends.


async def test_a_client_that_leaves_meanwhile_takes_the_connection_with_it() -> None:
    async with front(b"") as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        _, writer = await w.connect()
        writer.write(connect_head(443))
        await until(lambda: len(ahead.heads) == 1)
        reset(writer)
        await until(lambda: ahead.ended == 1)
        await w.settled()


async def test_a_rule_that_goes_cuts_what_waits_for_the_front() -> None:
    async with front(b"") as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        reader, writer = await w.connect()
        writer.write(connect_head(443))
        await until(lambda: len(ahead.heads) == 1)
        current = w.policies.current
        assert current is not None
        w.policies.current = replace(current, global_scope=type(current.global_scope)())
        w.gate.sweep()
        await until(lambda: ahead.ended == 1)
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        writer.close()
