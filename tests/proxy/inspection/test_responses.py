"""What upstreams send inside an opened TLS is read as strictly as on the plain path, and framed anew."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from cloned_proxy.policy.terms.rule import Inject
from tests.proxy.inspection.support import OK, World, rule

CODED = gzip.compress(b"you sent sk-canary-1234567890")
REFUSED = {
    "bare-cr": b"HTTP/1.1 200 OK\r\nX-A: b\rX-Cloned-Proxy-Reason: explicit_deny\r\nContent-Length: 2\r\n\r\nok",
    "bare-cr-in-phrase": b"HTTP/1.1 200 O\rSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 2\r\n\r\nok",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX-A: b\r\n X-Cloned-Proxy-Reason: no\r\nContent-Length: 2\r\n\r\nok",
    "bare-lf": b"HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok",
    "odd-status": b"HTTP/1.1 +2_00 OK\r\nContent-Length: 2\r\n\r\nok",
    "long-status": b"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\nok",
    "crlf-first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "empty-line-first": b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "two-codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "http-1.0-chunks": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "signed-length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "bad-interim": b"HTTP/1.1 103 Early\r\nX: a\0b\r\n\r\n" + OK,
    "101-without-upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_head_that_two_readers_could_read_differently_is_502(world: World, name: str) -> None:
    world.upstream.response = REFUSED[name]
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b'"phase":"response"' in answer
    assert b"X-Cloned-Proxy-Reason" not in answer
    assert [end.cause for end in world.audit.ends] == ["upstream_error:response"]


async def test_so_is_one_on_a_connection_that_was_kept(world: World) -> None:
    async def once_well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for response in (OK, REFUSED["bare-cr"]):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
        await reader.read()

    world.upstream.reply = once_well
    answer = await world.talk(world.get() + world.get())
    assert answer.startswith(OK + b"HTTP/1.1 502 ")
    assert world.upstream.connections == 1
    assert [end.cause for end in world.audit.ends] == ["closed", "upstream_error:response"]


async def test_a_coding_below_the_chunks_does_not_hide_a_secret(world: World) -> None:
    world.secrets.values["llm.api_key"] = "sk-canary-1234567890"
    inject = Inject("Authorization", "Bearer ${vault:llm.api_key}")
    world.allow(rule("api.test", world.upstream.port, inject=inject))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    world.upstream.response = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(CODED), CODED)
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert CODED not in answer


@pytest.mark.parametrize(
    ("response", "told"),
    [
        pytest.param(
            b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            id="304-chunked",
        ),
        pytest.param(
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            id="304-length-of-a-GET",
        ),
        pytest.param(
            b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            id="204-length",
        ),
        pytest.param(
            b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            id="204-chunked",
        ),
    ],
)
async def test_a_response_without_a_body_has_nothing_behind_its_head(
    world: World, response: bytes, told: bytes
) -> None:
    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(response if b"/bare" in head else OK)
        await both(reader, writer)

    world.upstream.reply = both
    answer = await world.talk(world.get("/bare") + world.get("/end", "Connection: close\r\n"))
    assert answer == told + OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def test_fields_that_a_connection_option_names_end_here(world: World) -> None:
    world.upstream.response = OK.replace(b"\r\n\r\n", b"\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n")
    answer = await world.talk(world.get("/", "Connection: close\r\n"))
    assert b"X-End: 2\r\n" in answer
    assert b"X-Hop" not in answer


@pytest.mark.parametrize("count", [16, 17])
async def test_interim_responses_are_dropped_up_to_a_bound(world: World, count: int) -> None:
    world.upstream.response = b"HTTP/1.1 100 Continue\r\n\r\n" * count + OK
    answer = await world.talk(world.get("/", "Connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 " if count == 16 else b"HTTP/1.1 502 ")
    assert b" 100 " not in answer


@pytest.mark.parametrize(
    "body",
    [b"2\nok\r\n0\r\n\r\n", b"2\r\nokXX\r\n0\r\n\r\n", b"1;" + b"a" * 5000, b"0\r\nbad trailer\r\n\r\n"],
    ids=["bare-lf", "longer-than-its-size", "endless-size-line", "malformed-trailer"],
)
async def test_a_malformed_chunk_cuts_the_response(world: World, body: bytes) -> None:
    world.upstream.response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    answer = await world.talk(world.get())
    assert not answer.endswith(b"0\r\n\r\n")
    assert [end.cause for end in world.audit.ends] == ["upstream_error:response"]
