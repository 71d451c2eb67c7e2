"""Heads and bodies that two readers could read differently: refused, recorded, and never forwarded."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.inspection.support import OK, World

HEADS = {
    "bare-lf": "GET / HTTP/1.1\nHost: {a}\n\n",
    "bare-cr": "GET / HTTP/1.1\r\nHost: {a}\r\nX: a\rb\r\n\r\n",
    "obs-fold": "GET / HTTP/1.1\r\nHost: {a}\r\nX: a\r\n b\r\n\r\n",
    "two-hosts": "GET / HTTP/1.1\r\nHost: {a}\r\nHost: evil.test\r\n\r\n",
    "other-host": "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "no-host": "GET / HTTP/1.1\r\n\r\n",
    "absolute-form": "GET http://{a}/ HTTP/1.1\r\nHost: {a}\r\n\r\n",
    "cl-and-te": "POST / HTTP/1.1\r\nHost: {a}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-cl": "POST / HTTP/1.1\r\nHost: {a}\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "te-not-chunked": "POST / HTTP/1.1\r\nHost: {a}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "http-9": "GET / HTTP/9.9\r\nHost: {a}\r\n\r\n",
    "h2-preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space-before-colon": "GET / HTTP/1.1\r\nHost: {a}\r\nX : a\r\n\r\n",
    "userinfo": "GET / HTTP/1.1\r\nHost: evil.test@{a}\r\n\r\n",
    "garbage": "\x16\x03\x01 hello\r\n\r\n",
    "connect-later": "CONNECT {a} HTTP/1.1\r\nHost: {a}\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_malformed_head_is_refused_and_recorded(world: World, name: str) -> None:
    answer = await world.talk(HEADS[name].format(a=world.authority).encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert world.audit.reasons in (["malformed_request"], ["host_header_mismatch"])
    assert not world.upstream.connections


@pytest.mark.parametrize("name", HEADS)
async def test_a_malformed_head_behind_a_good_request_is_not_forwarded(world: World, name: str) -> None:
    answer = await world.talk(world.get("/good") + HEADS[name].format(a=world.authority).encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answer
    assert world.upstream.text.count("HTTP/1.1") == 1


BODIES = {
    "bare-lf-chunk": b"2\nok\r\n0\r\n\r\n",
    "size-with-prefix": b"0x2\r\nok\r\n0\r\n\r\n",
    "negative-size": b"-2\r\nok\r\n0\r\n\r\n",
    "longer-than-size": b"2\r\nokXX\r\n0\r\n\r\n",
    "too many blanks before crlf": b"2" + b" " * 33 + b"\r\nok\r\n0\r\n\r\n",
    "space-before-size": b" 2\r\nok\r\n0\r\n\r\n",
    "huge-size": b"FFFFFFFFFFFFFFFFF\r\n",
    "endless-size-line": b"2;" + b"a" * 5000,
    "endless-extensions": (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 20,
    "cr-in-extension": b"2;a\rb\r\nok\r\n0\r\n\r\n",
    "malformed-trailer": b"0\r\nbad trailer\r\n\r\n",
    "folded-trailer": b"0\r\nA: b\r\n c\r\n\r\n",
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_malformed_chunked_body_is_refused(world: World, name: str) -> None:
    head = world.get("/", "Transfer-Encoding: chunked\r\n", method="POST")
    answer = await world.talk(head + BODIES[name] + world.get("/smuggled"))
    assert answer.startswith(b"HTTP/1.1 400 ") or b" 200 OK" in answer
    assert b"HTTP/1.1 400 " in answer or not answer.endswith(b"ok")
    assert "malformed_request" in world.audit.reasons
    assert "/smuggled" not in world.upstream.text


async def test_a_chunked_body_arrives_whole_with_extensions_and_trailers_dropped(world: World) -> None:
    body = b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n"
    head = world.get("/", "Transfer-Encoding: chunked\r\nConnection: close\r\n", method="POST")
    await world.talk(head + body)
    assert world.upstream.text.endswith("\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("size", [70_000, 1_000_000])
async def test_a_giant_head_is_refused_with_431(world: World, size: int) -> None:
    answer = await world.talk(world.get("/", f"X: {'a' * size}\r\n"))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert not world.upstream.connections


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
async def test_a_head_that_never_ends_is_recorded_and_answered_with_408(world: World, before: int) -> None:
    async with asyncio.timeout(5):
        answer = await world.talk(world.get() * before + b"GET / HTTP/1.1\r\nHost:", seconds=20)
    assert answer.startswith(OK * before + b"HTTP/1.1 408 ")
    assert world.audit.reasons == [*["allowed"] * before, "malformed_request"]


async def test_a_silent_client_is_closed(world: World) -> None:
    async with asyncio.timeout(5):
        assert await world.talk(b"", seconds=20) == b""


async def test_a_client_that_never_finishes_its_handshake_is_closed(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.transport.abort()


async def test_one_byte_segments_change_nothing(world: World) -> None:
    head = world.get("/slow", "Transfer-Encoding: chunked\r\nConnection: close\r\n", method="POST")
    answer = await world.talk(head + b"2\r\nok\r\n0\r\n\r\n", piece=1)
    assert answer.endswith(b"\r\n\r\nok")
    assert b"".join(bytes(world.upstream.received).partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]).startswith(b"o")


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    requests = b"".join(world.get(f"/{n}") for n in range(20)) + world.get("/last", "Connection: close\r\n")
    answer = await world.talk(requests)
    assert answer.count(b"HTTP/1.1 200 OK") == 21
    assert [line.split()[1] for line in world.upstream.text.splitlines() if line.startswith("GET")] == [
        *(f"/{n}" for n in range(20)),
        "/last",
    ]


async def test_http_1_0_is_served_and_closed(world: World) -> None:
    answer = await world.talk(world.get("/old", version="1.0"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close\r\n" in answer


async def test_http_1_0_never_gets_chunks(world: World) -> None:
    world.upstream.response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    answer = await world.talk(world.get("/old", version="1.0"))
    assert answer.endswith(b"\r\n\r\nok")
    assert b"chunked" not in answer
