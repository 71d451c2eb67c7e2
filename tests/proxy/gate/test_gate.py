"""The gate over real sockets: who gets a tunnel, who gets which answer, and what never happens to the refused."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.model.model import Limits, Policy
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.plain import kept_client
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.tunnel import client, connect_tunnel
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel
from cloned_proxy.proxy.upstream import ways
from cloned_proxy.proxy.upstream.resolver import ResolveError
from tests.proxy.support import (
    HOST,
    KEY,
    LOOPBACK,
    Reply,
    allow,
    as_server_hello,
    connect_head,
    hello,
    policy,
    until,
    upstream,
    world,
)
from tests.proxy.wire.test_head import MISMATCHED, REFUSED

DEMO = Principal("demo@v1", source=CallerSource.LISTENER)


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


# Malformed heads.


@pytest.mark.parametrize("case", [*REFUSED, *MISMATCHED])
@pytest.mark.parametrize("feed", ["whole", "bytewise", "trailing"])
async def test_a_malformed_head_is_400_however_it_is_fed(case: str, feed: str) -> None:
    data = (REFUSED | MISMATCHED)[case]
    reason = "malformed_request" if case in REFUSED else "host_header_mismatch"
    async with world() as w:
        more = b"GET http://smuggled.example/ HTTP/1.1\r\nHost: smuggled.example\r\n\r\n" if feed == "trailing" else b""
        reply = await w.ask(data + more, piecewise=feed == "bytewise")
        assert (reply.status, reply.fields["x-cloned-proxy-reason"]) == (400, reason)
        assert reply.fields["connection"] == "close"
        assert reply.json["hint"]
        assert w.audit.verdicts == [("deny", reason)]
        assert w.resolver.asked == []


@pytest.mark.parametrize("piecewise", [False, True])
async def test_bytes_that_are_not_http_are_refused_at_the_first(piecewise: bool) -> None:
    async with world() as w:
        assert (await w.ask(b"\x16\x03\x01\x02\x00", piecewise=piecewise)).status == 400


@pytest.mark.parametrize("ended", [b"", b"\r\n\r\n"])
async def test_a_giant_head_is_431(ended: bytes) -> None:
    async with world(max_head_bytes=1024) as w:
        reply = await w.ask(b"CONNECT a.example:443 HTTP/1.1\r\nX: " + b"x" * 100_000 + ended)
        assert (reply.status, reply.json["reason"]) == (431, "malformed_request")


async def test_too_many_fields_are_431() -> None:
    async with world(max_head_fields=10) as w:
        assert (await w.ask(connect_head(443, headers="X: y\r\n" * 10))).status == 431


@pytest.mark.alone
async def test_a_slow_head_is_bounded_from_its_first_byte() -> None:
    async with world(head_timeout=0.3) as w:
        reader, writer = await w.connect()
        started = time.monotonic()
        answer = asyncio.ensure_future(reader.read())
        for byte in b"CONNECT a.example:443 HTTP/1.1\r\nHost":
            if answer.done():
                break
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.2)
        assert Reply.read(await answer).status == 408
        assert time.monotonic() - started < 5  # all of it takes more than seven
        writer.transport.abort()


async def test_a_silent_client_is_closed_without_an_answer() -> None:
    async with world(head_timeout=0.1) as w:
        assert (await w.ask(b"")).status == 0
        assert w.audit.events == []


@pytest.mark.parametrize(
    "asked",
    [
        b"X / HTTP/1.1\r\n\r\n",
        connect_head(443, "other.example"),
        b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
    ],
    ids=["malformed", "CONNECT", "plain"],
)
async def test_a_client_that_is_gone_when_it_is_answered_is_no_failure(asked: bytes) -> None:
    """Behind the answer it is reset, and the FIN that follows cannot be sent."""
    with capture_logs() as logs:
        async with world() as w:
            with socket.create_connection(w.listener.socket.getsockname()) as gone:
                gone.sendall(asked)
            await until(lambda: len(w.audit.verdicts) == 1)
            await w.settled()
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize(
    "asked",
    [connect_head(443, "other.example"), b"GET http://other.example/ HTTP/1.0\r\nHost: other.example\r\n\r\n"],
    ids=["a tunnel", "plain HTTP"],
)
async def test_a_client_that_sends_on_behind_its_last_answer_is_cut(
    asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (client, kept_client):
        monkeypatch.setattr(module, "LINGER_SECONDS", 600.0)  # only the bytes can end it
    async with world() as w, asyncio.timeout(60):
        reader, writer = await w.connect()
        writer.write(asked)
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
        with pytest.raises(ConnectionError):
            await send_on(writer)
        await w.settled()


async def send_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


async def test_a_client_that_ignores_its_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LINGER_SECONDS", 0.1)
    async with world() as w:
        _, writer = await w.connect()
        writer.write(connect_head(443, "other.example"))
        await asyncio.sleep(0.05)
        assert not w.gate.idle
        await w.settled()
        writer.transport.abort()


# The first bytes of a tunnel.

UNFIT = {
    "other name": (lambda: hello("evil.example"), "sni_mismatch"),
    "no name": (lambda: hello(None), "sni_missing"),
    "SSH": (lambda: b"SSH-2.0-x\r\n", "protocol_not_allowed"),
    "HTTP/2 without TLS": (lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "protocol_not_allowed"),
    "SMTP": (lambda: b"EHLO client.example\r\n", "protocol_not_allowed"),
    "half a hello, then silence": (lambda: hello()[:50], "protocol_not_allowed"),
    "silence": (lambda: b"", "protocol_not_allowed"),
}


@pytest.mark.parametrize(("first", "reason"), UNFIT.values(), ids=UNFIT.keys())
async def test_a_tunnel_without_the_right_hello_is_closed_and_nothing_goes_up(
    first: Callable[[], bytes], reason: str
) -> None:
    sent = first()
    seconds = 0.2 if sent in (b"", hello()[:50]) else 30.0  # what comes late on a busy machine is not to be silence
    async with upstream() as server, world(allow(HOST, server.port), client_hello_timeout=seconds) as w:
        reader, writer = await w.tunnel(server.port, first=sent)
        if reason.startswith("sni"):
            assert await reader.read() == b"\x15\x03\x03\x00\x02\x02\x31"
        else:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.transport.abort()
        await w.settled()
        assert w.audit.verdicts == [("allow", "allowed"), ("deny", reason)]
        assert w.audit.ends[0].cause == f"refused:{reason}"
    assert server.received == b""


PLAIN = b"GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


@pytest.mark.parametrize("first", [PLAIN, PLAIN[:1], PLAIN[:6], PLAIN[:12]], ids=["whole", "G", "GET /x", "cut"])
async def test_plain_http_in_a_tunnel_gets_the_refusal_as_an_answer(first: bytes) -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port, first=first)
        reply = Reply.read(await reader.read())  # to the FIN: no reset loses it
        assert (reply.status, reply.fields["x-cloned-proxy-reason"]) == (403, "protocol_not_allowed")
        assert reply.json["hint"] == (
            f"a tunnel carries TLS only; for anything else: cloned-proxy allow {HOST}:{server.port} --tcp"
        )
        writer.transport.abort()
        await w.settled()
        assert w.audit.verdicts == [("allow", "allowed"), ("deny", "protocol_not_allowed")]
        assert w.audit.ends[0].cause == "refused:protocol_not_allowed"
    assert server.received == b""


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


async def test_head_in_a_tunnel_is_answered_without_a_body() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port, first=PLAIN.replace(b"GET", b"HEAD"))
        reply = Reply.read(await reader.read())
        assert (reply.status, reply.body) == (403, b"")
        assert int(reply.fields["content-length"]) > 0
        writer.transport.abort()


async def test_a_client_that_leaves_before_its_hello_is_not_a_denial() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        _, writer = await w.tunnel(server.port, first=b"")
        writer.close()
        await w.settled()
        assert w.audit.verdicts == [("allow", "allowed")]
        assert [end.cause for end in w.audit.ends] == ["closed"]


async def test_a_raw_tcp_rule_lets_the_server_speak_first() -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        assert await reader.readexactly(4) == b"QUIT"

    async with upstream(banner) as server, world(allow(HOST, server.port, raw_tcp=True)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        assert await reader.readexactly(11) == b"220 ready\r\n"
        writer.write(b"QUIT")
        assert await reader.read() == b""
        writer.close()


async def test_report_mode_lets_other_protocols_pass_and_records_them() -> None:
    async with upstream() as server:
        current = policy(allow(HOST, server.port), mode=Mode.REPORT)
        async with world(current=current) as w:
            reader, writer = await w.tunnel(server.port, first=b"SSH-2.0-x\r\n")
            assert await reader.readexactly(11) == b"SSH-2.0-x\r\n"
            writer.close()
            assert ("report", "protocol_not_allowed") in w.audit.verdicts


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


# Revocation, timeouts, stopping.


def narrowed(current: Policy) -> Policy:
    return replace(current, version="v2", global_scope=policy().global_scope)


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
