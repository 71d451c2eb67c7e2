"""Secrets of the vault inside an opened TLS, on their way to a host that they are not for."""

from __future__ import annotations

import asyncio
import base64

import pytest

from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.secrets.leak import LeakWatch
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until

CANARY = "sk-canary/4f+9=0aQ"
NAME = "github.token"
CLOSE = "Connection: close\r\n"


@pytest.fixture
def watching(world: World) -> World:
    world.leaks.load({NAME: CANARY})
    return world


def refused(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert CANARY.encode() not in answer
    return head.startswith(b"HTTP/1.1 403 ") and b"X-Cloned-Proxy-Reason: secret_leak" in head and b"egress_den" in body


@pytest.mark.parametrize("spelled", [CANARY, base64.b64encode(f"user:{CANARY}".encode()).decode()])
@pytest.mark.parametrize("place", ["query", "header", "websocket"])
async def test_a_head_with_it_reaches_nobody(watching: World, place: str, spelled: str) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"
    data = {
        "query": watching.get(f"/?k={spelled}", CLOSE),
        "header": watching.get("/", f"Authorization: Basic {spelled}\r\n{CLOSE}"),
        "websocket": watching.get("/", f"{upgrade}X-Key: {spelled}\r\n"),
    }[place]
    assert refused(await watching.talk(data))
    assert not watching.upstream.connections
    assert watching.audit.reasons == ["secret_leak"]
    assert spelled not in repr(watching.audit.events)
    assert NAME in repr(watching.audit.events)


@pytest.mark.parametrize("piece", [0, 5])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_a_body_with_it_does_not_arrive_whole_and_its_client_is_told(
    watching: World, framing: str, piece: int
) -> None:
    body = f"take {CANARY} along".encode()
    field = f"Content-Length: {len(body)}\r\n" if framing == "sized" else "Transfer-Encoding: chunked\r\n"
    data = body if framing == "sized" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    answer = await watching.talk(watching.get("/up", field, method="POST") + data, piece=piece)
    assert refused(answer)
    assert CANARY[:8] not in watching.upstream.text
    assert not watching.upstream.text.endswith("0\r\n\r\n")
    await until(lambda: bool(watching.audit.ends))
    assert [end.cause for end in watching.audit.ends] == ["refused:secret_leak"]
    assert watching.audit.reasons == ["allowed", "secret_leak"]
    await until(lambda: watching.in_use == 0)


async def test_behind_the_begin_of_a_response_it_is_a_cut(watching: World) -> None:
    began = asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        while data := await reader.read(100):
            watching.upstream.received += data

    watching.upstream.reply = early
    reader, writer = await watching.connect()
    writer.write(watching.get("/up", "Content-Length: 100\r\n", method="POST"))
    await reader.readuntil(b"ok\r\n")
    began.set()
    writer.write(b"and now " + CANARY.encode())
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1000)
    await until(lambda: bool(watching.audit.ends))
    assert [end.cause for end in watching.audit.ends] == ["refused:secret_leak"]
    assert CANARY[:8] not in watching.upstream.text


async def test_its_own_host_gets_it(watching: World) -> None:
    inject = Inject("X-Api-Key", f"${{vault:{NAME}}}")
    watching.secrets.values[NAME] = CANARY
    watching.allow(rule("api.test", watching.upstream.port, inject=inject))
    answer = await watching.talk(watching.get(f"/?k={CANARY}", CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_holds_none_arrives_as_it_is(watching: World) -> None:
    body = bytes(range(256)) * 1500 + CANARY[:-1].encode()
    field = f"Content-Length: {len(body)}\r\n"
    _, writer = await watching.connect()
    writer.write(watching.get("/up", field, method="POST") + body)
    await until(lambda: len(watching.upstream.received) > len(body))
    assert bytes(watching.upstream.received).endswith(body)
    writer.transport.abort()


async def test_control_without_the_search_it_arrives(watching: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeakWatch, "in_head", lambda self, head: "")
    monkeypatch.setattr(LeakWatch, "scanner", lambda self, head: None)
    answer = await watching.talk(watching.get(f"/?k={CANARY}", CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert CANARY in watching.upstream.text
