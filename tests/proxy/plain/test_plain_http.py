"""Plain HTTP through a whole gate: raw clients and servers on loopback, both event loops."""

from __future__ import annotations

import asyncio
import time

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.support import HOST, KEY, allow, policy, until, upstream, world


def token(tool: str, run: str = "run-1") -> str:
    return f"X-Cloned-Tool-Token: {mint_token(KEY, Claims(tool, run, time.time() + 60))}\r\n"


# What goes up, and what comes down.


HEADS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "end-to-end fields in their order": ("A: 1\r\nB: 2\r\nA: 3\r\n", [("a", "1"), ("b", "2"), ("a", "3")]),
    "hop-by-hop": ("Keep-Alive: 5\r\nTE: gzip\r\nTrailer: X\r\nUpgrade: h2c\r\nProxy-Connection: keep-alive\r\n", []),
    "named by Connection": ("Connection: x-mine, keep-alive\r\nX-Mine: 1\r\nX-Other: 2\r\n", [("x-other", "2")]),
    "Connection cannot name Host": ("Connection: host, via\r\n", []),
    "credentials and what is ours": ("Proxy-Foo: 1\r\nX-Cloned-Tool: a\r\nX-Cloned-Foo: 1\r\n", []),
    "TE: trailers passes": ("TE: gzip, trailers\r\n", [("te", "trailers"), ("connection", "te")]),
    "no body, no framing": ("Content-Length: 0\r\n", [("content-length", "0")]),
    "octets above ASCII": ("X-A: \xe9\r\n", [("x-a", "\xe9")]),
}


@pytest.mark.parametrize(("headers", "passed"), HEADS.values(), ids=HEADS.keys())
async def test_the_head_that_goes_upstream(headers: str, passed: list[tuple[str, str]]) -> None:
    seen: list[Message] = []
    async with (
        upstream(answering(reply(), seen=seen)) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port, "/p?q=1").replace(b"\r\n\r\n", b"\r\n" + headers.encode("latin-1") + b"\r\n"))
        assert (await read_message(reader)).body == b"ok"
    assert seen[0].line == "GET /p?q=1 HTTP/1.1"
    assert seen[0].fields == [("host", f"{HOST}:{server.port}"), *passed, ("Via", "1.1 cloned-proxy")]


async def test_the_host_sent_upstream_is_the_canonical_one() -> None:
    seen: list[Message] = []
    async with (
        upstream(answering(reply(), seen=seen)) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port).replace(HOST.encode(), b"API.Example.COM."))
        assert (await read_message(reader)).status == 200
    assert seen[0].one("host") == f"{HOST}:{server.port}"


RESPONSES: dict[str, tuple[bytes, str, list[str], bytes]] = {
    "sized": (reply(b"body"), "GET", ["Content-Length: 4"], b"body"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nX-T: 1\r\nHost: evil\r\n\r\n",
        "GET",
        ["Transfer-Encoding: chunked"],
        b"bodyX-T: 1\r\n",
    ),
    "hop-by-hop": (
        (
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTrailer: x\r\n"
            b"Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nX-Cloned-Proxy-Reason: none\r\nServer: s\r\n"
            b"Content-Length: 0\r\n\r\n"
        ),
        "GET",
        ["Server: s", "Content-Length: 0"],
        b"",
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", [], b""),
    "304 tells a length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        "GET",
        ["Content-Length: 9"],
        b"",
    ),
    "HEAD tells a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", ["Content-Length: 9"], b""),
    "no phrase": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", ["Content-Length: 0"], b""),
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("response", "method", "fields", "body"), RESPONSES.values(), ids=RESPONSES.keys())
async def test_the_response_that_comes_down(
    response: bytes, method: str, fields: list[str], body: bytes, bytewise: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_message(reader)
            for at in range(0, len(response), 1 if bytewise else len(response)):
                writer.write(response[at : at + 1] if bytewise else response)
                await asyncio.sleep(0)

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            for _ in range(2):  # the second over the same connections: nothing was left in them
                writer.write(request(server.port, method=method))
                message = await read_message(reader, body=bool(body))
                assert [f"{name}: {value}" for name, value in message.fields] == [*fields, "Via: 1.1 cloned-proxy"]
                assert message.body + b"".join(message.trailers) == body
        assert server.connections == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_that_ends_with_its_connection(version: str) -> None:
    async with (
        upstream(answering(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", close=True)) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port, version=version))
        message = await read_message(reader)
        assert message.body == b"until the end"
        assert message.all("transfer-encoding") == (["chunked"] if version == "1.1" else [])
        assert message.all("connection") == ([] if version == "1.1" else ["close"])


async def test_a_client_of_http_1_0_gets_no_chunks_and_a_fin() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with upstream(answering(chunks)) as server, world(allow(HOST, server.port)) as w, client(w) as (r, writer):
        writer.write(request(server.port, version="1.0"))
        assert (await r.read()).partition(b"\r\n\r\n")[2] == b"abc"


AMBIGUOUS: dict[str, bytes] = {
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000,
    "a head of a megabyte": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "nothing but FIN": b"",
    "half a head and FIN": b"HTTP/1.1 200 OK\r\nContent-",
}


@pytest.mark.parametrize("response", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_ambiguous_response_is_502(response: bytes) -> None:
    async with upstream(answering(response, close=True)) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            writer.write(request(server.port))
            message = await read_message(reader)
            assert message.status == 502
            assert b'"phase":"response"' in message.body
            assert b"127.0.0.1" not in message.body
            # The request was whole, so the client connection goes on; the upstream one does not.
            writer.write(request(server.port))
            assert (await read_message(reader)).status == 502
        assert server.connections == 2
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["upstream_error:response"] * 2


BROKEN_BODIES: dict[str, bytes] = {
    "a length that is not reached": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "a chunk that is longer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "a signed chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n+3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("response", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_a_body_that_breaks_off_ends_in_a_reset(response: bytes) -> None:
    async with upstream(answering(response, close=True)) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            writer.write(request(server.port))
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["upstream_error:response"]


async def test_bytes_behind_a_response_are_not_the_next_one() -> None:
    poisoned = reply(b"first") + reply(b"smuggled")
    async with upstream(answering(poisoned)) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            for _ in range(2):
                writer.write(request(server.port))
                assert (await read_message(reader)).body == b"first"
        assert server.connections == 2


async def test_a_response_that_comes_unasked_closes_the_pooled_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(reply(b"asked"))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(reply(b"unasked"))
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            for _ in range(2):
                writer.write(request(server.port))
                assert (await read_message(reader)).body == b"asked"
                await asyncio.sleep(0.15)
        assert server.connections == 2


# Decisions, one for each request.


async def test_credentials_may_change_on_a_kept_connection() -> None:
    async with upstream(answering(reply())) as server:
        rules = policy(allow(HOST, server.port), limits=Limits(requests_per_minute=1))
        async with world(current=rules) as w, client(w) as (reader, writer):
            statuses = []
            for headers in (
                token("demo@v1"),
                token("demo@v1"),
                token("other@v1"),
                "",
                "X-Cloned-Tool-Token: forged\r\n",
            ):
                writer.write(request(server.port, headers=headers))
                statuses.append((await read_message(reader)).status)
            assert statuses == [200, 429, 200, 200, 407]
        # Each principal has its own connection upstream.
        assert server.connections == 3
    assert [event.tool for event in w.audit.events if isinstance(event, DecisionEvent)] == [
        "demo@v1", "demo@v1", "other@v1", None, None
    ]  # fmt: skip


async def test_two_pipelined_requests_of_which_the_second_is_denied() -> None:
    seen: list[Message] = []
    async with (
        upstream(answering(reply(), seen=seen)) as server,
        world(allow(HOST, server.port, methods=frozenset({"GET"}))) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port, "/1") + request(server.port, "/2", method="POST", body=b"x" * 100)
                     + request(server.port, "/3"))  # fmt: skip
        got = [await read_message(reader) for _ in range(3)]
        assert [message.status for message in got] == [200, 403, 200]
        assert got[1].one("x-cloned-proxy-reason") == "method_not_allowed"
    assert [message.line for message in seen] == ["GET /1 HTTP/1.1", "GET /3 HTTP/1.1"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("", b"x" * 70_000),
        ("Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"),
        ("Expect: 100-continue\r\n", b"x"),
    ],
    ids=["large", "chunked", "expected"],
)
async def test_a_refused_request_whose_body_is_not_read_ends_the_connection(headers: str, body: bytes) -> None:
    async with world() as w, client(w) as (reader, writer):
        writer.write(request(80, method="POST", headers=headers, body=body) + request(80))
        message = await read_message(reader)
        assert (message.status, message.one("connection")) == (403, "close")
        assert await reader.read() == b""
    assert len(w.audit.verdicts) == 1


async def test_many_pipelined_refusals_are_no_recursion() -> None:
    async with world(denials=5000) as w, client(w) as (reader, writer):
        writer.write(request(80, method="HEAD") * 3000)
        for _ in range(3000):
            assert (await read_message(reader, body=False)).status == 403


async def test_a_rule_that_injects_is_refused_while_there_is_no_vault() -> None:
    async with upstream() as server:
        async with world(allow(HOST, server.port, inject=Inject("Authorization", "${vault:x}"))) as w:
            async with client(w) as (reader, writer):
                writer.write(request(server.port))
                assert (await read_message(reader)).status == 503
            await w.settled()
        assert server.connections == 0
    assert w.audit.verdicts[-1] == ("deny", "internal_error")
    assert [end.cause for end in w.audit.ends] == ["refused:internal_error"]


async def test_a_listener_of_a_tool_names_every_request() -> None:
    demo = Principal("demo@v1", "run-9")
    async with (
        upstream(answering(reply())) as server,
        world(allow(HOST, server.port), principal=demo) as w,
        client(w) as (reader, writer),
    ):
        for headers, status in (("", 200), (token("demo@v1"), 200), (token("other@v1"), 403)):
            writer.write(request(server.port, headers=headers))
            assert (await read_message(reader)).status == status
    assert w.audit.verdicts == [("allow", "allowed"), ("allow", "allowed"), ("deny", "identity_mismatch")]


async def test_an_unknown_name_is_502_of_the_phase_resolve() -> None:
    async with world(allow("gone.example", 80)) as w, client(w) as (reader, writer):
        writer.write(b"GET http://gone.example/ HTTP/1.1\r\nHost: gone.example\r\n\r\n")
        message = await read_message(reader)
        assert message.status == 502
        assert b'"phase":"resolve"' in message.body


async def test_an_upstream_that_refuses_is_502_of_the_phase_connect() -> None:
    async with upstream() as server:
        port = server.port
    async with world(allow(HOST, port)) as w, client(w) as (reader, writer):
        for _ in range(2):
            writer.write(request(port))
            message = await read_message(reader)
            assert (message.status, b'"phase":"connect"' in message.body) == (502, True)
    await until(lambda: len(w.audit.ends) == 2)
