"""`inject` inside an opened TLS. The judge is what arrives at the upstream, and what comes back to the client."""

from __future__ import annotations

import asyncio
import base64

import pytest

from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.secrets.echo import HELD_BYTES
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until

CANARY = "sk-canary/4f+9="
BEARER = Inject("Authorization", "Bearer ${vault:llm.api_key}")


@pytest.fixture
def injecting(world: World) -> World:
    world.secrets.values["llm.api_key"] = CANARY
    world.allow(rule("api.test", world.upstream.port, paths=("/v1/**",), inject=BEARER))
    return world


def _of(text: str, name: str) -> list[str]:
    lines = text.split("\r\n")
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith(f"{name}:")]


async def test_the_header_is_added_and_the_tools_own_never_passes(injecting: World) -> None:
    own = "Authorization: Bearer mine\r\nauthorization: x\r\nConnection: authorization\r\nAccept-Encoding: br\r\n"
    answer = await injecting.talk(injecting.get("/v1/a", own + "Connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert _of(injecting.upstream.text, "authorization") == [f"Bearer {CANARY}"]
    assert _of(injecting.upstream.text, "accept-encoding") == ["identity"]


async def test_another_path_gets_nothing(injecting: World) -> None:
    answer = await injecting.talk(injecting.get("/v2", "Connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert not injecting.upstream.connections


async def test_a_kept_connection_carries_each_time_the_secret_of_the_moment(injecting: World) -> None:
    reader, writer = await injecting.connect()
    for value in (CANARY, "rotated-secret", None):
        if value is None:
            del injecting.secrets.values["llm.api_key"]
        else:
            injecting.secrets.values["llm.api_key"] = value
        writer.write(injecting.get("/v1/a"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 " if value is None else b"HTTP/1.1 200 ")
        if value is not None:
            await reader.readexactly(2)
    writer.transport.abort()
    assert _of(injecting.upstream.text, "authorization") == [f"Bearer {CANARY}", "Bearer rotated-secret"]


async def test_without_its_secret_the_call_does_not_go_out(injecting: World) -> None:
    injecting.secrets.values.clear()
    answer = await injecting.talk(injecting.get("/v1/a", "Authorization: Bearer mine\r\n"))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"internal_error" in answer
    assert b"llm.api_key" not in answer
    assert not injecting.upstream.connections
    await until(lambda: injecting.in_use == 0)
    assert injecting.audit.reasons[-1] == "internal_error"


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


async def test_the_head_of_an_upgrade_is_redacted_and_offers_no_extension(injecting: World) -> None:
    injecting.upstream.response = SWITCHED + f"X-Seen: Bearer {CANARY}\r\n\r\n".encode()
    reader, writer = await injecting.connect()
    writer.write(injecting.get("/v1/a", f"{UPGRADE}Sec-WebSocket-Extensions: permessage-deflate\r\n"))
    head = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"X-Seen: [redacted]\r\n" in head
    assert _of(injecting.upstream.text, "sec-websocket-extensions") == []
    assert _of(injecting.upstream.text, "authorization") == [f"Bearer {CANARY}"]


async def test_an_upgrade_to_frames_that_nobody_could_search_is_refused(injecting: World) -> None:
    injecting.upstream.response = SWITCHED + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    answer = await injecting.talk(injecting.get("/v1/a", UPGRADE))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"X-Cloned-Proxy-Reason: secret_echoed" in answer


@pytest.mark.parametrize("spelled", [CANARY, base64.b64encode(f"Bearer {CANARY}".encode()).decode()])
async def test_a_head_that_repeats_it_is_redacted(injecting: World, spelled: str) -> None:
    injecting.upstream.response = (
        f"HTTP/1.1 200 {spelled}\r\nContent-Length: 2\r\nX-Seen: {spelled}\r\nX-{CANARY[:9]}: 1\r\n\r\nok".encode()
    )
    answer = await injecting.talk(injecting.get("/v1/a", "Connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 [redacted]\r\n")
    assert b"X-Seen: [redacted]\r\n" in answer
    assert answer.endswith(b"\r\n\r\nok")
    assert spelled.encode() not in answer


@pytest.mark.parametrize("spelled", [CANARY, base64.b64encode(f"Bearer {CANARY}".encode()).decode()])
async def test_a_small_body_that_repeats_it_is_refused(injecting: World, spelled: str) -> None:
    body = f"you sent {spelled}"
    injecting.upstream.response = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Real: 1\r\n\r\n{body}".encode()
    answer = await injecting.talk(injecting.get("/v1/a"))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b'"error":"secret_echoed"' in answer
    assert b"X-Real" not in answer
    assert spelled.encode() not in answer
    await until(lambda: bool(injecting.audit.ends))
    assert [end.cause for end in injecting.audit.ends] == ["refused:secret_echoed"]
    await until(lambda: injecting.in_use == 0)


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_body_without_a_length_is_cut_before_the_secret_is_whole(injecting: World, pieces: int) -> None:
    body = f"before {CANARY} after".encode()
    size = -(-len(body) // pieces)

    async def chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await reader.read()

    injecting.upstream.reply = chunks
    answer = await injecting.talk(injecting.get("/v1/a"))
    assert CANARY.encode() not in answer
    assert b"sk-can" not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    await until(lambda: bool(injecting.audit.ends))
    assert [end.cause for end in injecting.audit.ends] == ["refused:secret_echoed"]
    await until(lambda: injecting.in_use == 0)


async def test_a_stream_is_not_kept_back(injecting: World) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await reader.read()

    injecting.upstream.reply = stream
    reader, writer = await injecting.connect()
    writer.write(injecting.get("/v1/a"))
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"data: 1\n\n")).startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()


async def test_a_compressed_answer_is_refused_because_nobody_can_look_into_it(injecting: World) -> None:
    injecting.upstream.response = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"
    answer = await injecting.talk(injecting.get("/v1/a"))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"compressed" in answer


@pytest.mark.parametrize("size", [0, 5, HELD_BYTES, HELD_BYTES + 1])
async def test_what_repeats_nothing_arrives_as_it_is(injecting: World, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    injecting.upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    answer = await injecting.talk(injecting.get("/v1/a", "Connection: close\r\n"))
    assert answer.partition(b"\r\n\r\n")[2] == body
    await until(lambda: bool(injecting.audit.ends))
    assert [end.bytes_down for end in injecting.audit.ends] == [size]
