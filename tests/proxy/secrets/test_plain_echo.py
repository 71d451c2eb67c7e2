"""An injected secret that the upstream sends back on plain HTTP: it is redacted, refused or cut, and never arrives."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import replace
from urllib.parse import quote

import pytest

from cloned_proxy.proxy.secrets.echo import HELD_BYTES, EchoFilter, EchoScanner
from tests.proxy.plain.support import Message, answering, read_message, reply, request
from tests.proxy.secrets.injecting import BEARER, CANARY, scene

ECHOES = {
    "raw": CANARY,
    "base64": base64.b64encode(f"Bearer {CANARY}".encode()).decode(),
    "percent": quote(CANARY, safe=""),
}


@pytest.mark.parametrize("spelled", ECHOES.values(), ids=ECHOES)
async def test_a_head_that_repeats_it_is_redacted(spelled: str) -> None:
    early = f"HTTP/1.1 103 Early Hints\r\nLink: <{spelled}>\r\n\r\n".encode()
    fields = f"X-Seen: Bearer {spelled} end\r\nLocation: http://x/?k={spelled}\r\nX-Kept: yes\r\n"
    async with scene(answering(early + reply(status=f"200 {spelled}", headers=fields))) as s:
        s.writer.write(request(s.server.port))
        interim = await read_message(s.reader, body=False)
        message = await read_message(s.reader)
    assert (interim.status, message.status, message.body) == (103, 200, b"ok")
    assert (message.all("x-seen"), message.all("location")) == (["[redacted]"], ["[redacted]"])
    assert message.all("x-kept") == ["yes"]
    assert all(spelled[4:-4] not in str(part) for part in (interim, message))


@pytest.mark.parametrize("spelled", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("framing", ["sized", "chunked", "unsized"])
async def test_a_small_body_that_repeats_it_is_refused(spelled: str, framing: str) -> None:
    body = f"you sent {spelled}, thank you".encode()
    answers = {
        "sized": reply(body, headers="X-Real: yes\r\n"),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        "unsized": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }
    async with scene(answering(answers[framing], close=framing == "unsized")) as s:
        message = await s.ask()
        assert message.status == 502
        assert b'"error":"secret_echoed"' in message.body
        assert spelled.encode() not in message.body
        assert message.all("x-real") == []
        # The connection to the client is in order; that to the upstream is not used again.
        assert (await s.ask()).status == 502
        assert s.server.connections == 2
        assert {end.cause for end in s.world.audit.ends} == {"refused:secret_echoed"}
        assert CANARY not in repr(s.world.audit.events)


async def test_a_stream_is_cut_before_the_secret_is_whole() -> None:
    went_on = asyncio.Event()
    event = f"data: {CANARY}".encode()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b"8\r\ndata: 1\n\r\n")
        await went_on.wait()
        writer.write(b"f\r\n" + event[:15] + b"\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event) - 15, event[15:]))
        await reader.read()

    async with scene(stream) as s:
        s.writer.write(request(s.server.port))
        got = await s.reader.readuntil(b"data: 1\n\r\n")  # passed on at once
        went_on.set()
        with contextlib.suppress(ConnectionResetError):
            while data := await s.reader.read(100):
                got += data
        await s.world.settled()
        assert [end.cause for end in s.world.audit.ends] == ["refused:secret_echoed"]
    assert b"sk-" not in got
    assert not got.endswith(b"0\r\n\r\n")


async def test_trailers_are_redacted() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = f"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Seen: {CANARY}\r\n\r\n".encode()
    async with scene(answering(head + body)) as s:
        message = await s.ask(headers="TE: trailers\r\n")
    assert (message.body, message.trailers) == (b"ok", [b"X-Sum: 1\r\n", b"X-Seen: [redacted]\r\n"])


async def test_a_compressed_answer_is_refused_because_nobody_can_look_into_it() -> None:
    async with scene(answering(reply(b"\x1f\x8b...", headers="Content-Encoding: gzip\r\n"))) as s:
        message = await s.ask()
    assert message.status == 502
    assert b"compressed" in message.body


@pytest.mark.parametrize("size", [0, 1, HELD_BYTES, HELD_BYTES + 1, 3 * HELD_BYTES])
async def test_what_repeats_nothing_arrives_as_it_is(size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with scene(answering(reply(body))) as s:
        for _ in range(2):
            assert (await s.ask()).body == body
        assert s.server.connections == 1
        assert all(end.bytes_down > size for end in s.world.audit.ends)


@pytest.mark.parametrize("framing", ["chunked", "unsized"])
async def test_what_has_no_length_and_repeats_nothing_arrives_as_it_is(framing: str) -> None:
    body = b"ends like a secret: " + CANARY[:-1].encode()
    answers = {
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        "unsized": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }
    async with scene(answering(answers[framing], close=framing == "unsized")) as s:
        for _ in range(2):
            assert (await s.ask()).body == body


async def test_without_redact_echo_the_answer_is_the_upstreams() -> None:
    seen: list[Message] = []
    answer = reply(CANARY.encode(), headers="Content-Encoding: gzip\r\n")
    async with scene(answering(answer, seen=seen), replace(BEARER, redact_echo=False)) as s:
        assert (await s.ask(headers="Accept-Encoding: gzip\r\n")).body == CANARY.encode()
    assert seen[0].all("accept-encoding") == ["gzip"]


async def test_a_held_body_that_breaks_off_is_502_and_no_part_of_it() -> None:
    async with scene(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", close=True)) as s:
        message = await s.ask()
    assert message.status == 502
    assert b"only this" not in message.body


# Each guard taken out: the attack that it stops is real.


async def test_control_without_the_search_the_secret_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EchoFilter, "finds", lambda self, data: False)
    async with scene(answering(reply(CANARY.encode(), headers=f"X-Seen: {CANARY}\r\n"))) as s:
        message = await s.ask()
    assert (message.all("x-seen"), message.body) == ([CANARY], CANARY.encode())


async def test_control_without_the_hold_back_most_of_a_secret_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EchoFilter, "pending", lambda self, data: 0)
    scanner = EchoScanner(EchoFilter([CANARY]))
    pieces = (CANARY[:-1].encode(), CANARY[-1:].encode())
    assert b"".join(scanner.feed(piece) for piece in pieces) == CANARY.encode()
