"""What a tunnel may begin with: the right ClientHello, or nothing goes up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cloned_proxy.policy.terms.vocabulary import Mode
from tests.proxy.support import (
    HOST,
    PLAIN,
    Reply,
    allow,
    hello,
    policy,
    upstream,
    world,
)

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
    seconds = 0.2 if len(sent) in {0, 50} else 30.0  # what comes late on a busy machine is not to be silence
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
