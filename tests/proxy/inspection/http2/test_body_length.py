"""Bodies that are shorter than they say, in a way that the library does not see, and bodies in very small pieces."""

from __future__ import annotations

import asyncio

import pytest
from hyperframe.frame import DataFrame, HeadersFrame

from tests.proxy.inspection.http2.peers import Client, Upstream2
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until

SECRET = "GET /no/canary HTTP/1.1"


class _AnswersEarly:
    """An HTTP/1.1 server that answers by the head alone, and throws the body away behind that."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        """Each request line that it has read."""
        self.began, self.go = asyncio.Event(), asyncio.Event()

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
            line, *fields = head.split("\r\n")
            self.lines.append(line)
            self.began.set()
            await self.go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            lengths = [int(field.split(": ")[1]) for field in fields if field.startswith("content-length: ")]
            await reader.readexactly(sum(lengths))


@pytest.mark.parametrize("trailers", [(b"x-end", b"1"), (b"content-length", b"3")], ids=["plain", "another length"])
async def test_a_body_that_trailers_cut_short_does_not_swallow_the_next_request(
    trailers: tuple[bytes, bytes], h1: World
) -> None:
    """What is missing of it would be taken out of the next request, whose fields then are a request of their own."""
    server = _AnswersEarly()
    h1.upstream.reply = server.reply
    h1.allow(rule("api.test", h1.upstream.port, paths=("/ok/**",)))
    swallowed = len(f"POST /ok/2 HTTP/1.1\r\nhost: {h1.authority}\r\nx-a: ")
    client = await Client.connect(h1)
    stream = client.begin(client.head("/ok/1", method="POST", fields=[("content-length", f"{swallowed}")]), end=False)
    await server.began.wait()
    block = client.h2.encoder.encode([trailers])
    client.send(DataFrame(stream, b""), HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]))
    await until(lambda: h1.front._streams == {} or h1.front._streams[stream].window.pipe.ended)
    server.go.set()
    first = await client.response(stream)
    answer = await client.ask(client.head("/ok/2", method="POST", fields=[("x-a", SECRET)]))
    assert server.lines == ["POST /ok/1 HTTP/1.1", "POST /ok/2 HTTP/1.1"]
    assert (first.status, answer.status) == (None, "200")  # malformed: RFC 9113, section 8.1.1
    await client.close()


async def test_a_body_in_tiny_pieces_costs_no_more_than_its_bytes(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    """Thousands of frames of one byte, which pile up behind a window that is shut."""
    upstream.prepare = lambda peer: peer.withheld.add(1)
    stream = client.begin(client.head("/up", method="POST"), end=False)
    await until(lambda: len(upstream.requests) == 1)
    await client.send_body(stream, b"x" * 65_535, end=False)
    await upstream.requests[0].until(lambda: len(upstream.requests[0].body) == 65_535)
    for _ in range(20_000):
        client.send(DataFrame(stream, b"y"))
    pipe = h2.front._streams[stream].window.pipe
    await until(lambda: pipe.size >= 20_000 - 16_384)
    await until(lambda: pipe.size + 16_384 >= 20_000)
    assert len(pipe._pieces) < 100
