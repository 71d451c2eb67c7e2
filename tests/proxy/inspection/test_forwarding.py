from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.inspection.http1 import connection as connection_module
from cloned_proxy.proxy.inspection.http1.exchange import Exchange
from tests.proxy.inspection.support import KEY, OK, World, rule
from tests.proxy.support import resident_bytes, until


def credential(tool: str) -> str:
    token = mint_token(KEY, Claims(tool, "run-1", 4_000_000_000.0))
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{tool}:{token}".encode()).decode() + "\r\n"


STRIPPED = [
    "Proxy-Authorization: Basic AAAA",
    "Proxy-Connection: keep-alive",
    "X-Cloned-Anything: 1",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "Upgrade: h2c",
    "Connection: X-Private, Upgrade\r\nX-Private: 1",
]


@pytest.mark.parametrize("line", STRIPPED)
async def test_hop_by_hop_and_own_fields_do_not_go_upstream(world: World, line: str) -> None:
    world.upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nEND"
    await world.talk(world.get("/", line + "\r\n"))
    sent = world.upstream.text.lower()
    assert sent.startswith("get / http/1.1\r\n")
    for name in ("proxy-", "x-cloned", "keep-alive", "te:", "upgrade", "x-private", "connection"):
        assert name not in sent


async def test_the_caller_is_that_of_the_connect_whatever_a_credential_inside_the_tls_says(world: World) -> None:
    world.caller = Principal("a@v1", "run-1")
    scope = Scope(allow=HostIndex([rule("api.test", world.upstream.port, paths=("/a/**",))]), inherit_global=False)
    other = Scope(allow=HostIndex([rule("api.test", world.upstream.port, paths=("/b/**",))]), inherit_global=False)
    world.policies.current = Policy("v", tools={"a@v1": scope, "b@v1": other})
    requests = world.get("/a/1", credential("b@v1")) + world.get("/b/1", credential("b@v1"))
    answer = await world.talk(requests)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"HTTP/1.1 403 " in answer
    assert {request.tool for request in world.audit.requests} == {"a@v1"}
    assert "authorization" not in world.upstream.text.lower()
    assert "/b/1" not in world.upstream.text


async def test_the_requests_of_a_tunnel_share_their_upstream_connection(world: World) -> None:
    await world.talk(world.get("/1") + world.get("/2") + world.get("/3", "Connection: close\r\n"))
    assert world.upstream.connections == 1
    assert world.upstream.text.count("GET /") == 3


async def test_a_name_is_sent_as_the_a_label_that_matched(world: World) -> None:
    world.allow(rule("xn--bcher-kva.test", world.upstream.port))
    port = world.upstream.port
    world.host = "xn--bcher-kva.test"
    head = f"GET / HTTP/1.1\r\nHost: XN--BCHER-KVA.test.:{port}\r\nConnection: close\r\n\r\n"
    answer = await world.talk(head.encode())
    assert b" 200 OK" in answer
    assert f"host: xn--bcher-kva.test:{port}\r\n" in world.upstream.text


async def test_an_upstream_that_is_not_there_is_502_without_its_address(world: World) -> None:
    world.upstream.port = 9
    world.allow(rule("api.test", 9))
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b'"phase":"connect"' in answer
    assert b"127.0.0.1" not in answer


async def test_a_silent_upstream_is_504(world: World) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    world.upstream.reply = silent
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b'"phase":"response"' in answer
    assert [end.cause for end in world.audit.ends] == ["upstream_error:response"]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(b"", id="closes"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", id="unasked-upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000, id="endless-head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", id="cl-and-te"),
    ],
)
async def test_a_bad_response_is_502_and_never_mitmproxys_page(world: World, reply: bytes) -> None:
    async def bad(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        await asyncio.sleep(3 if len(reply) > 65_536 else 0.2)  # an endless head stays open

    world.upstream.reply = bad
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"html" not in answer


async def test_a_response_cannot_speak_for_the_proxy(world: World) -> None:
    world.upstream.response = b"HTTP/1.1 200 OK\r\nX-Cloned-Proxy-Reason: no\r\nContent-Length: 2\r\n\r\nok"
    answer = await world.talk(world.get("/", "Connection: close\r\n"))
    assert b"X-Cloned" not in answer


async def test_a_rule_that_injects_is_refused_until_there_is_a_vault(world: World) -> None:
    world.allow(rule("api.test", world.upstream.port, inject=Inject("authorization", "Bearer ${vault:x}")))
    answer = await world.talk(world.get())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections
    await until(lambda: world.in_use == 0)


async def test_after_many_requests_the_connection_is_closed_politely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_REQUESTS", 3)
    answer = await world.talk(b"".join(world.get(f"/{n}") for n in range(6)))
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b"Connection: close") == 1


async def test_closed_upstreams_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.upstream.response = OK.replace(b"Content-Length", b"Connection: close\r\nContent-Length")
    sizes: list[int] = []
    original = connection_module.InspectedConnection.forget

    def spy(self: connection_module.InspectedConnection, exchange: Exchange) -> None:
        original(self, exchange)
        sizes.append(len(self.pool._open))

    monkeypatch.setattr(connection_module.InspectedConnection, "forget", spy)
    await world.talk(b"".join(world.get(f"/{n}") for n in range(30)))
    assert len(sizes) == 30
    assert max(sizes) <= 4


async def test_a_revoked_request_is_cut_in_the_middle_of_its_response(world: World) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"data: x\n\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    world.upstream.reply = endless
    reader, writer = await world.connect()
    writer.write(world.get())
    async with asyncio.timeout(60):
        await reader.readuntil(b"data: x")
        world.inspector.sweep()
        for _ in range(20):  # it goes on
            await reader.readuntil(b"data: x")
        world.allow()
        world.inspector.sweep()
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(65_536):
                pass
    writer.transport.abort()
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["revoked:host_not_allowed"]


SIZE = 48 * 1024 * 1024


async def _upload(world: World, head: bytes, size: int) -> tuple[bytes, int]:
    reader, writer = await world.connect()
    before, peak, block = resident_bytes(), 0, b"x" * 262_144
    writer.write(head)
    try:
        for _ in range(size // len(block)):
            writer.write(block)
            await writer.drain()
            peak = max(peak, resident_bytes() - before)
    except ConnectionError:
        pass
    answer = b""
    try:
        async with asyncio.timeout(3):
            answer = await reader.read(65536)
    except (ConnectionError, TimeoutError):
        pass
    writer.transport.abort()
    return answer, peak


async def test_a_refused_upload_is_not_buffered_and_does_not_hang(world: World) -> None:
    world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))
    head = world.get("/other", f"Content-Length: {SIZE * 4}\r\n", method="POST")
    async with asyncio.timeout(10):
        _, peak = await _upload(world, head, SIZE * 4)
    assert peak < 16 * 1024 * 1024
    assert not world.upstream.connections


async def test_a_refused_client_that_reads_gets_its_answer(world: World) -> None:
    world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))
    head = world.get("/other", f"Content-Length: {SIZE}\r\n", method="POST")
    assert (await world.talk(head + b"x" * 300_000)).startswith(b"HTTP/1.1 403 ")


async def test_an_upload_is_held_back_while_the_decision_waits(world: World) -> None:
    world.hold_decisions()
    head = world.get("/", f"Content-Length: {SIZE}\r\n", method="POST")
    _, peak = await _upload(world, head, SIZE)
    assert peak < 16 * 1024 * 1024


async def test_an_upload_streams_with_flat_memory_and_is_counted(world: World) -> None:
    got = 0

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        while got < SIZE:
            got += len(await reader.read(65536))
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.2)

    world.upstream.reply = sink
    answer, peak = await _upload(world, world.get("/", f"Content-Length: {SIZE}\r\n", method="POST"), SIZE)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert got == SIZE
    assert peak < 24 * 1024 * 1024
    assert world.audit.ends[0].bytes_up == SIZE


async def test_a_download_streams_with_flat_memory_and_is_counted(world: World) -> None:
    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode())
        for _ in range(SIZE // 262_144):
            writer.write(b"x" * 262_144)
            await writer.drain()
        await reader.read()  # all of it has to arrive

    world.upstream.reply = source
    reader, writer = await world.connect()
    writer.write(world.get())
    before, peak, got = resident_bytes(), 0, 0
    await reader.readuntil(b"\r\n\r\n")
    while got < SIZE:
        data = await reader.read(65536)
        assert data
        got += len(data)
        peak = max(peak, resident_bytes() - before)
    assert peak < 24 * 1024 * 1024
    await until(lambda: bool(world.audit.ends))
    assert world.audit.ends[0].bytes_down == SIZE
    writer.transport.abort()


@pytest.mark.parametrize("piece", [1, 0], ids=["byte by byte", "at once"])
async def test_interim_responses_and_trailers_end_here_and_the_response_passes(world: World, piece: int) -> None:
    reply = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Cloned-Tool: x\r\n\r\n"
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for at in range(0, len(reply), piece or len(reply)):
                writer.write(reply[at : at + (piece or len(reply))])
                await writer.drain()
                await asyncio.sleep(0)

    world.upstream.reply = answer
    told = await world.talk(world.get() + world.get(extra="Connection: close\r\n"))
    assert told.count(b"HTTP/1.1 200 OK") == told.count(b"k\r\n0\r\n\r\n") == 2
    assert told.count(b"HTTP/1.1 ") == 2
    assert b"X-Cloned" not in told
