"""The gate over real sockets: who gets a tunnel, who gets which answer, and what never happens to the refused."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import time
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.upstream.resolver import ResolveError
from tests.proxy.support import (
    DEMO,
    HOST,
    KEY,
    LOOPBACK,
    allow,
    as_server_hello,
    connect_head,
    hello,
    policy,
    upstream,
    world,
)


async def test_an_allowed_tunnel_carries_every_byte_and_is_on_record() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        sent = hello()
        assert len(await reader.readexactly(len(sent))) == len(sent)
        assert w.metrics.open == 1
        writer.close()
        await w.settled()
    assert bytes(server.received[:3]) == b"\x16\x03\x01"
    assert w.audit.verdicts == [("allow", "allowed")]
    assert [(end.bytes_up, end.bytes_down, end.cause) for end in w.audit.ends] == [
        (len(server.received), len(server.received), "closed")
    ]
    assert w.metrics.connects == 1


async def test_bytes_sent_with_the_head_are_kept() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.connect()
        early = hello() + b"\x17\x03\x03\x00\x0aearly data"
        writer.write(connect_head(server.port) + early)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(early)) == as_server_hello(early)
        writer.close()


async def test_a_hello_in_one_byte_segments_passes() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        sent = hello()
        for byte in sent:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert await reader.readexactly(len(sent)) == as_server_hello(sent)
        writer.close()


DENIED = {
    "unknown host": ("other.example", "host_not_allowed", 403),
    "IP literal": ("192.0.2.1", "ip_literal", 403),
}


@pytest.mark.parametrize(("host", "reason", "status"), DENIED.values(), ids=DENIED.keys())
async def test_a_denied_host_is_answered_without_a_look_up_or_a_dial(host: str, reason: str, status: int) -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reply = await w.ask(connect_head(server.port, host))
        assert (reply.status, reply.fields["x-cloned-proxy-reason"]) == (status, reason)
        assert reply.json["error"] == "egress_denied"
        assert set(reply.json) == {"error", "reason", "tool", "host", "port", "method", "decision_id", "hint"}
        assert reply.json["host"] == host
        assert w.resolver.asked == []
        assert server.connections == 0
        assert w.audit.verdicts == [("deny", reason)]


async def test_a_port_that_is_not_in_the_rule_is_denied() -> None:
    async with upstream() as server, world(allow(HOST, 443)) as w:
        assert (await w.ask(connect_head(server.port))).json["reason"] == "port_not_allowed"
        assert server.connections == 0


async def test_an_address_that_is_not_allowed_is_not_dialled_and_not_told() -> None:
    inside = (ipaddress.ip_address("169.254.169.254"), LOOPBACK)
    async with upstream() as server, world(allow(HOST, server.port), addresses=inside) as w:
        reply = await w.ask(connect_head(server.port))
        assert reply.json["reason"] == "address_not_allowed"
        assert b"169.254" not in reply.body
        assert server.connections == 0


async def test_own_listeners_are_never_dialled() -> None:
    async with world() as w:
        own_port = w.listener.socket.getsockname()[1]
        w.policies.current = policy(allow(HOST, own_port), allow("127.0.0.1", own_port))
        for host in (HOST, "127.0.0.1"):
            assert (await w.ask(connect_head(own_port, host))).json["reason"] == "address_not_allowed"


async def test_a_client_that_drops_the_body_of_a_refused_connect_still_shows_why() -> None:
    async with world() as w:
        host, port = w.listener.socket.getsockname()

        def ask() -> str:
            client = http.client.HTTPSConnection(host, port, timeout=10)
            client.set_tunnel("evil.example.net", 443)
            with contextlib.closing(client), pytest.raises(OSError, match="Tunnel") as failed:
                client.request("GET", "/")
            return str(failed.value)

        said = await asyncio.to_thread(ask)
    assert said == "Tunnel connection failed: 403 host_not_allowed: cloned-proxy allow evil.example.net"


async def test_no_policy_is_503() -> None:
    async with world() as w:
        w.policies.current = None
        reply = await w.ask(connect_head(443))
        assert (reply.status, reply.json["reason"]) == (503, "policy_unavailable")


async def test_a_log_that_fails_refuses_with_503_and_dials_nothing() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        w.audit.broken = True
        assert (await w.ask(connect_head(server.port))).status == 503
        assert server.connections == 0
        assert w.metrics.dropped


# Credentials and listeners.


def credential(tool: str) -> str:
    token = mint_token(KEY, Claims(tool, "run-1", time.time() + 60))
    return f"X-Cloned-Tool-Token: {token}\r\n"


async def test_a_credential_names_the_tool() -> None:
    async with upstream() as server, world(allow(HOST, server.port), principal=None) as w:
        _, writer = await w.tunnel(server.port, headers=credential("demo@v1"))
        writer.close()
        await w.settled()
    assert w.audit.ends[0].tool == "demo@v1"


async def test_a_listener_that_names_nobody_demands_a_credential() -> None:
    async with upstream() as server, world(allow(HOST, server.port), principal=None) as w:
        reply = await w.ask(connect_head(server.port))
        assert (reply.status, reply.json["reason"]) == (407, "identity_missing")
        assert reply.fields["proxy-authenticate"] == 'Basic realm="cloned-proxy"'
        assert server.connections == 0


async def test_a_bad_credential_is_refused_even_where_none_is_needed() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reply = await w.ask(connect_head(server.port, headers="X-Cloned-Tool-Token: bad\r\n"))
        assert (reply.status, reply.json["reason"]) == (407, "identity_invalid")


async def test_no_header_changes_the_tool_of_a_listener() -> None:
    async with upstream() as server, world(allow(HOST, server.port), principal=DEMO) as w:
        reply = await w.ask(connect_head(server.port, headers=credential("other@v1")))
        assert (reply.status, reply.json["reason"]) == (403, "identity_mismatch")
        assert "proxy-authenticate" not in reply.fields
        assert server.connections == 0


async def test_a_unix_listener_carries_its_tool(tmp_path: Path) -> None:
    async with upstream() as server, world(allow(HOST, server.port), principal=DEMO, unix=tmp_path / "s") as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        writer.close()
        await w.settled()
    assert w.audit.ends[0].tool == "demo@v1"


async def test_closing_one_listener_cuts_its_connections_only() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        slot = Listener(bind_tcp("127.0.0.1", 0), DEMO, "slot")
        await w.gate.open(slot)
        stays, other = await w.tunnel(server.port)
        address = slot.socket.getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(connect_head(server.port))
        await reader.readuntil(b"\r\n\r\n")
        w.gate.close(slot)
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        await stays.readexactly(len(hello()))
        other.write(b"still here")
        assert await stays.readexactly(10) == b"still here"
        writer.transport.abort()
        other.close()


# Upstreams.


async def test_an_upstream_that_refuses_is_502_and_names_the_phase_only() -> None:
    async with upstream() as server:
        port = server.port
    async with world(allow(HOST, port)) as w:
        reply = await w.ask(connect_head(port))
        assert (reply.status, reply.json["phase"]) == (502, "connect")
        assert b"127.0.0.1" not in reply.body
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["upstream_error:connect"]


@pytest.mark.parametrize(("timed_out", "status"), [(False, 502), (True, 504)])
async def test_a_name_that_does_not_resolve_is_502_and_one_that_takes_too_long_504(
    *, timed_out: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(allow(HOST, 443), known=False) as w:

        async def fails(*_: object) -> tuple[Address, ...]:
            raise ResolveError("no answer", timed_out=timed_out)

        monkeypatch.setattr(w.resolver, "resolve", fails)
        reply = await w.ask(connect_head(443))
        assert (reply.status, reply.json["phase"]) == (status, "resolve")


async def test_the_concurrent_limit_is_429_and_comes_back() -> None:
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=Limits(concurrent=1))
        async with world(current=current, principal=DEMO) as w:
            _, writer = await w.tunnel(server.port)
            reply = await w.ask(connect_head(server.port))
            assert (reply.status, reply.json["reason"]) == (429, "limit_exceeded")
            assert int(reply.fields["retry-after"]) >= 1
            writer.transport.abort()
            await asyncio.sleep(0.1)
            _, writer = await w.tunnel(server.port)
            writer.close()


async def test_tries_of_a_refused_call_take_nothing_of_the_budget() -> None:
    """Clients repeat one up to nine times."""
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=Limits(requests_per_minute=1))
        async with world(current=current, principal=DEMO) as w:
            for _ in range(9):
                assert (await w.ask(connect_head(server.port, "other.example"))).status == 403
            _, writer = await w.tunnel(server.port)
            writer.close()
            await w.settled()
            assert (await w.ask(connect_head(server.port))).status == 429
