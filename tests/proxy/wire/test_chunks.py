"""Chunk sizes with padding: real servers write them with a fixed width. Read within bounds, and never passed on so."""

from __future__ import annotations

import pytest

from cloned_proxy.proxy.wire.body import BodyError, Buffer, ChunkedBody
from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.support import HOST, allow, upstream, world

CHUNKED = "Transfer-Encoding: chunked\r\n"
PADDED = {
    "a blank": b"5 \r\nhello\r\n0 \r\n\r\n",
    "blanks to a width of 8": b"5       \r\nhello\r\n0       \r\n\r\n",
    "a tab": b"5\t\r\nhello\r\n0\t\r\n\r\n",
    "zeros to a width of 8": b"00000005\r\nhello\r\n00000000\r\n\r\n",
    "more zeros than digits of any size": b"0" * 31 + b"5\r\nhello\r\n" + b"0" * 32 + b"\r\n\r\n",
    "both, and an extension": b"05 ;name=value\r\nhello\r\n00 ;last\r\n\r\n",
}
REFUSED = {
    "blanks without end": b"5" + b" " * 33 + b"\r\nhello\r\n0\r\n\r\n",
    "zeros without end": b"0" * 47 + b"5\r\nhello\r\n0\r\n\r\n",
    "a blank before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a blank inside the size": b"0 5\r\nhello\r\n0\r\n\r\n",
    "only blanks": b"  \r\nhello\r\n0\r\n\r\n",
    "a vertical tab": b"5\x0b\r\nhello\r\n0\r\n\r\n",
    "a bare CR": b"5 \r \r\nhello\r\n0\r\n\r\n",
    "a blank and a bare LF": b"5 \nhello\r\n0\r\n\r\n",
    "a prefix behind zeros": b"0x5\r\nhello\r\n0\r\n\r\n",
    "padding that carries a stream": b"1                               \r\nx\r\n" * 2200,
}


def read(data: bytes, size: int) -> bytes:
    body, buffer, out = ChunkedBody(), Buffer(), b""
    for at in range(0, len(data), size):
        buffer += data[at : at + size]
        while piece := body.read(buffer):
            out += piece
        if piece is None:
            return out
    raise AssertionError("the body is not complete")


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("data", PADDED.values(), ids=PADDED)
def test_padding_is_read(data: bytes, size: int) -> None:
    assert read(data, size) == b"hello"


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_two_readers_could_read_differently_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(BodyError):
        read(data, size)


async def test_neither_side_sees_the_padding_of_the_other() -> None:
    seen: list[Message] = []
    padded = PADDED["both, and an extension"]
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + padded
    async with upstream(answering(answer, seen=seen)) as server, world(allow(HOST, server.port)) as w, client(w) as c:
        reader, writer = c
        writer.write(request(server.port, method="POST", headers=CHUNKED, body=padded))
        raw = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert raw.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert [message.body for message in seen] == [b"hello"]


async def test_what_stands_behind_a_padded_last_chunk_is_another_request() -> None:
    """Whoever stops at the blank, or takes the padded size for another one, would read it as a body."""
    seen: list[Message] = []
    inner = b"GET http://denied.example.com/secret HTTP/1.1\r\nHost: denied.example.com\r\n\r\n"
    async with upstream(answering(reply(), seen=seen)) as server, world(allow(HOST, server.port)) as w, client(w) as c:
        reader, writer = c
        body = PADDED["blanks to a width of 8"]
        writer.write(request(server.port, method="POST", headers=CHUNKED, body=body) + inner)
        assert [(await read_message(reader)).status for _ in range(2)] == [200, 403]
    assert [message.line for message in seen] == ["POST / HTTP/1.1"]
