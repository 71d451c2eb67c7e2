"""The native plane's readers of plain HTTP against those of Python: requests, responses and bodies.

What the plane reads, Python must read the same way, and what goes on must be the same bytes. A request or a response
that it does not read goes to Python and is no difference; a body has to come to the same end in both.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable
from typing import Final

from cloned_proxy.policy.callers.identity import credential_fields
from cloned_proxy.policy.terms.host import parse_host
from cloned_proxy.proxy.plane.library import Reading
from cloned_proxy.proxy.wire.body import (
    BodyError,
    BodyReader,
    Buffer,
    ChunkedBody,
    OversizeError,
    SizedBody,
    UnsizedBody,
    take_head,
)
from cloned_proxy.proxy.wire.fields import authority, encode_request
from cloned_proxy.proxy.wire.head import HeadError, parse_head
from cloned_proxy.proxy.wire.response import ResponseError, parse_response, trailers_of
from tests.proxy import fuzz

_MOST: Final = 65_536
_MOST_FIELDS: Final = 200
_ROOM: Final = 1 << 18
_HEAD: Final = 2
_MORE, _WHOLE, _MALFORMED = 0, 1, 2
_SIZED, _CHUNKED, _UNSIZED = 1, 2, 3
_SWITCHING_PROTOCOLS: Final = 101
_FIRST_FINAL: Final = 200
_MOST_SHOWN: Final = 10


class PlainReaders:
    """The library, asked about one input at a time. Raises AssertionError where Python reads otherwise."""

    def __init__(self, native: ctypes.CDLL) -> None:
        self._library: Final = native
        self._buffer: Final = ctypes.create_string_buffer(_ROOM)
        self._reading: Final = Reading(text=ctypes.cast(self._buffer, ctypes.c_char_p), room=_ROOM)

    @property
    def _text(self) -> bytes:
        return self._buffer.raw[: self._reading.text_length]

    def check_request(self, data: bytes) -> bool:
        """Whether the plane reads it."""
        out = ctypes.byref(self._reading)
        if not self._library.plane_reads_request(data, len(data), _MOST, _MOST_FIELDS, b"", 0, out):
            return False
        length, start, end, path, path_end, credentials, kept, framing = self._reading.numbers
        try:
            head = parse_head(data[:length], names_us=lambda *_: False, max_fields=_MOST_FIELDS)
        except HeadError as error:
            raise AssertionError(f"Python refuses {data!r}: {error}") from error
        asked = data[start:end].decode("ascii")
        host = parse_host(head.host)
        assert asked in {authority(host, head.port, default_port=port) for port in (80, 0)}, data
        assert head.target == f"http://{asked}{head.path}", data
        assert head.path.encode("ascii") == data[path:path_end], data
        assert len(credential_fields(head.fields)) == credentials, data
        assert head.keep_alive == bool(kept), data
        assert framing == (_CHUNKED if head.chunked else _SIZED if head.content_length else 0), data
        wanted = authority(host, head.port, default_port=80).encode("ascii")
        assert self._library.plane_reads_request(data, len(data), _MOST, _MOST_FIELDS, wanted, len(wanted), out), data
        assert self._text == encode_request(head, host), data
        return True

    def check_response(self, data: bytes, *, to_head: bool, close: bool) -> bool:
        """Whether the plane reads it."""
        out = ctypes.byref(self._reading)
        outcome = self._library.plane_reads_response(data, len(data), _MOST, _MOST_FIELDS, to_head, close, out)
        buffer = Buffer()
        buffer += data
        try:
            taken = take_head(buffer, _MOST)
            head = parse_response(taken, max_fields=_MOST_FIELDS) if taken is not None else None
        except (ResponseError, OversizeError):
            assert outcome not in {_MORE, _HEAD}, data
            return False
        assert (outcome == _MORE) is (head is None), data
        if outcome != _HEAD or head is None or head.status == _SWITCHING_PROTOCOLS:
            return False
        length, status, framing, size, clean, *_ = self._reading.numbers
        body = head.body("HEAD" if to_head else "GET")
        assert (length, status) == (len(data) - len(buffer), head.status), data
        assert framing == _framing_of(body), data
        assert size == (body.left if isinstance(body, SizedBody) else 0), data
        assert bool(clean) is (head.keep_alive and not (head.chunked and body is None)), data
        assert not head.upgrade, data
        assert self._text == head.encode(body, minor=1, close=close and head.status >= _FIRST_FINAL), data
        return True

    def check_body(self, data: bytes, framing: int, size: int, step: int) -> bool:
        """Whether it is whole."""
        out = ctypes.byref(self._reading)
        outcome = self._library.plane_reads_body(data, len(data), framing, size, step, out)
        body: BodyReader = (
            SizedBody(size) if framing == _SIZED else ChunkedBody() if framing == _CHUNKED else UnsizedBody()
        )
        buffer, got, ended, at = Buffer(), b"", _MORE, 0
        try:
            while at < len(data) and not ended:
                buffer += data[at : at + step]
                at += step
                while piece := body.read(buffer):
                    got += piece
                ended = _WHOLE if piece is None else _MORE
        except BodyError:
            ended = _MALFORMED
        assert outcome == ended, (data, framing, size, step)
        if ended == _MALFORMED:
            return False
        if framing == _SIZED:
            assert self._text == got, (data, size, step)
        else:
            chunks, rest = _unchunked(self._text)
            trailers = trailers_of(body) if isinstance(body, ChunkedBody) else b""
            assert (chunks, rest) == (got, b"0\r\n" + trailers + b"\r\n" if ended else b""), (data, framing, step)
        if ended:
            assert self._reading.numbers[0] == min(at, len(data)) - len(buffer), (data, framing, size, step)
        return bool(ended)


def _framing_of(body: BodyReader | None) -> int:
    if body is None:
        return 0
    return _SIZED if isinstance(body, SizedBody) else _CHUNKED if isinstance(body, ChunkedBody) else _UNSIZED


def _unchunked(text: bytes) -> tuple[bytes, bytes]:
    """The data of chunks that were written by us, and what is behind them."""
    data = b""
    while text and not text.startswith(b"0\r\n"):
        size, _, rest = text.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n", text
        data += rest[:length]
        text = rest[length + 2 :]
    return data, text


# Inputs.

_REQUESTS: Final = (
    b"GET http://example.com/a?b=c HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
    b"POST http://example.com:8080/ HTTP/1.1\r\nHost: example.com:8080\r\nContent-Length: 12\r\nX-A: b\r\n\r\n",
    b"PUT http://a-b.example.com/x;y HTTP/1.1\r\nHost: a-b.example.com\r\nTransfer-Encoding: chunked\r\n\r\n",
    (
        b"HEAD http://192.0.2.1/ HTTP/1.1\r\nHost: 192.0.2.1\r\n"
        b"Proxy-Authorization: Basic YTpi\r\nConnection: close\r\n\r\n"
    ),
    (
        b"GET http://[2001:db8::1]:81/ HTTP/1.1\r\nHost: [2001:db8::1]:81\r\n"
        b"X-Cloned-Tool-Token: a.b\r\nKeep-Alive: 5\r\n\r\n"
    ),
)
_RESPONSES: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: s\r\nConnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end",
    b'HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: "x"\r\n\r\n',
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n",
)
_RESPONSE_WORDS: Final = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"\0", b"\x7f", b"\x85", b"\xff", b"\r\n ", b"\r\n\r\n", b"\n\n",
    b"Content-Length: 5\r\n", b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\n",
    b"Transfer-Encoding: CHUNKED\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Connection: server, etag\r\n",
    b"Proxy-Authenticate: Basic\r\n", b"X-Cloned-Proxy-Reason: x\r\n", b"HTTP/1.1 ", b"HTTP/1.0 ", b"101",
    b"204", b"000",
)  # fmt: skip
_BODIES: Final = (
    b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    b'1;a=b\r\nx\r\n0a \t;q="1"\r\n0123456789\r\n000\r\nX-T: 1\r\nHost: x\r\nProxy-X: 1\r\n\r\nrest',
    b"0000000000000000000000000000000000003\r\nabc\r\n0;x\r\n\r\n",
    b"fffffffffffffff\r\nabc",
    b"0\r\nContent-Length: 5\r\nX: \xff\r\n\r\n",
)  # fmt: skip
_BODY_WORDS: Final = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b";", b"0", b"00000000", b"1", b"f", b"g", b"-1", b"0x1", b"\0", b"\xff", b":",
    b"0\r\n", b"\r\n\r\n", b"3\r\nabc\r\n", b"X: y\r\n", b" y\r\n", b"ffffffffffffffff", b"0" * 33, b" " * 33,
    b";" + b"x" * 5000,
)  # fmt: skip


def requests(rng: random.Random) -> bytes:
    """What a client may send."""
    made = fuzz.mutate(rng.choice(_REQUESTS), fuzz.WORDS, rng) if rng.random() < 0.8 else fuzz.heads(rng)
    return made if rng.random() < 0.1 or made.endswith(b"\r\n\r\n") else made + b"\r\n\r\n"


def responses(rng: random.Random) -> bytes:
    """What a server may answer."""
    return fuzz.mutate(rng.choice(_RESPONSES), _RESPONSE_WORDS, rng)


def bodies(rng: random.Random) -> bytes:
    """What may come behind a head: how it is framed, its size, how many bytes come at a time, and the bytes."""
    framing = rng.choice((_CHUNKED, _CHUNKED, _CHUNKED, _CHUNKED, _SIZED, _UNSIZED))
    size = rng.choice((1, 5, 17, 40, 1000))
    step = rng.choice((1, 2, 3, 7, 50, 10_000))
    return b"%d %d %d\n" % (framing, size, step) + fuzz.mutate(rng.choice(_BODIES), _BODY_WORDS, rng)


KINDS: Final[dict[str, Callable[[random.Random], bytes]]] = {
    "request": requests,
    "response": responses,
    "body": bodies,
}
PLAIN: Final = {"request": _REQUESTS[0], "response": _RESPONSES[0], "body": b"2 1 50\n" + _BODIES[0]}
"""One of each kind that is plainly in order."""


def check(readers: PlainReaders, kind: str, data: bytes) -> bool:
    """One input, of whatever kind; whether it came to a good end in both."""
    if kind == "request":
        return readers.check_request(data)
    if kind == "response":
        taken = [readers.check_response(data, to_head=to_head, close=not to_head) for to_head in (False, True)]
        return all(taken)
    how, _, rest = data.partition(b"\n")
    framing, size, step = map(int, how.split())
    return readers.check_body(rest, framing, size, step)


def run(readers: PlainReaders, kind: str, inputs: int, rng: random.Random) -> tuple[int, int]:
    """How many came to a good end, and how many were read in two ways: these are kept in the corpus."""
    passed = failed = 0
    for _ in range(inputs):
        data = KINDS[kind](rng)
        try:
            passed += check(readers, kind, data)
        except AssertionError as error:
            failed += 1
            fuzz.keep(f"plane-{kind}", data)
            if failed <= _MOST_SHOWN:
                sys.stdout.write(f"{kind}: {error}\n"[:1500])
    return passed, failed
