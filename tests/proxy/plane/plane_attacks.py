"""Plain HTTP that two readers could read differently, and what must not come of it, judged by bytes at either end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, Principal
from cloned_proxy.policy.model.model import Limits
from tests.proxy.plain.support import reply, request
from tests.proxy.support import HOST, World, allow, policy, until, upstream, world

PATIENCE: Final = 60.0
_IDS: Final = re.compile(rb"[0-9a-f]{24}")


@dataclass
class Seen:
    """What either end got. Ports and ids, which differ from run to run, are written as words."""

    server: list[bytearray] = field(default_factory=list)
    """By connection."""
    client: bytearray = field(default_factory=bytearray)
    verdicts: list[tuple[str, str]] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    @property
    def all(self) -> bytes:
        return b"|".join(self.server)

    def comparable(self, port: int) -> tuple[bytes, bytes, list[tuple[str, str]], list[str]]:
        told, got = (_IDS.sub(b"ID", data.replace(b"%d" % port, b"PORT")) for data in (self.all, bytes(self.client)))
        return told, got, self.verdicts, self.causes


type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytearray], Coroutine[None, None, None]]
type Play = Callable[[World, int, Seen], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Attack:
    guard: str
    """Of the native plane, which holds it off: in `broken_plane.GUARDS`."""
    play: Play
    safe: Callable[[Seen], bool]
    serve: Serve
    limits: Limits | None = None


def _headed(path: str, headers: str, body: bytes = b"", method: str = "GET") -> Callable[[int], bytes]:
    def encode(port: int) -> bytes:
        return request(port, path, method=method).replace(b"\r\n\r\n", b"\r\n" + headers.encode() + b"\r\n") + body

    return encode


def _says(*requests: Callable[[int], bytes]) -> Play:
    """A client that sends these at once, then FIN, and reads to the end."""

    async def play(w: World, port: int, seen: Seen) -> None:
        reader, writer = await w.connect()
        writer.write(b"".join(encode(port) for encode in requests))
        writer.write_eof()
        await read_on(reader, seen)
        writer.transport.abort()

    return play


async def read_on(reader: asyncio.StreamReader, seen: Seen) -> None:
    """To its end, which may be a reset."""
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.wait_for(reader.read(65_536), PATIENCE):
            seen.client += data


_SIZE: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def _whole(data: bytes) -> int:
    """The length of the first message, 0 while it is not complete; by its head, and no closer."""
    head, found, body = data.partition(b"\r\n\r\n")
    start = len(head) + len(found)
    if not found:
        return 0
    if b"chunked" in head:
        end = body.find(b"\r\n\r\n")
        return start + end + 4 if end >= 0 else 0
    size = _SIZE.search(head)
    length = start + (int(size[1]) if size else 0)
    return length if length <= len(data) else 0


def _answers(**by_path: bytes) -> Serve:
    """A server that answers each message with what is for its path, or the name of that."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: bytearray) -> None:
        at = 0
        while data := await reader.read(65_536):
            got += data
            while length := _whole(bytes(got[at:])):
                name = got[at:].split(b" ")[1].decode().strip("/")
                writer.write(by_path.get(name, reply(name.encode())))
                at += length

    return serve


def _behind_a_reset() -> tuple[Play, Serve]:
    """A body that ends where its connection does, which ends in a reset."""
    came: list[asyncio.Event] = []

    async def play(w: World, port: int, seen: Seen) -> None:
        came.append(asyncio.Event())
        reader, writer = await w.connect()
        writer.write(request(port, "/reset", headers="Connection: close\r\n"))
        seen.client += await reader.readuntil(b"partial")
        came[-1].set()
        await read_on(reader, seen)
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: bytearray) -> None:
        got += await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\npartial")
        await came[-1].wait()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return play, serve


async def _answered_early(w: World, port: int, seen: Seen) -> None:
    """A client whose request is answered in its middle, and another one who comes then."""
    reader, writer = await w.connect()
    writer.write(request(port, "/early", method="POST", headers="Content-Length: 10\r\n") + b"abc")
    seen.client += await asyncio.wait_for(reader.readuntil(b"early"), PATIENCE)
    other, others = await w.connect()
    others.write(request(port, "/other", headers="Connection: close\r\n"))
    with contextlib.suppress(ConnectionResetError):
        seen.client += await asyncio.wait_for(other.read(), PATIENCE)
    others.transport.abort()
    with contextlib.suppress(ConnectionError):
        writer.write(b"defghij")
        writer.write_eof()
    await read_on(reader, seen)
    writer.transport.abort()


async def _early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: bytearray) -> None:
    """Answers at the sight of a head; the body is read behind that."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        got += head
        writer.write(reply(head.split(b" ")[1].strip(b"/")))
        if size := _SIZE.search(head):
            got += await reader.readexactly(int(size[1]))


async def _leaves_its_sending_side(w: World, port: int, seen: Seen) -> None:
    """A client that sends FIN behind its request, and reads a response that goes on for longer than a quiet one may."""
    reader, writer = await w.connect()
    writer.write(request(port, "/stream"))
    writer.write_eof()
    await read_on(reader, seen)
    writer.transport.abort()


async def _streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: bytearray) -> None:
    """Seven pieces within 0.9 s: quiet for a third of `broken_plane.AFTER_FIN` at a time, and twice as long in all."""
    got += await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n")
    for _ in range(7):
        writer.write(b"tic")
        await asyncio.sleep(0.15)
    await reader.read()


def _unasked() -> tuple[Play, Serve]:
    """A response that nobody has asked for, on a connection that is kept for the next one."""
    answered: list[asyncio.Event] = []
    said: list[asyncio.Event] = []

    async def play(w: World, port: int, seen: Seen) -> None:
        answered.append(asyncio.Event())
        said.append(asyncio.Event())
        reader, writer = await w.connect()
        writer.write(request(port, "/first"))
        seen.client += await asyncio.wait_for(reader.readuntil(b"first"), PATIENCE)
        answered[-1].set()
        await asyncio.wait_for(said[-1].wait(), PATIENCE)
        writer.write(request(port, "/second", headers="Connection: close\r\n"))
        await read_on(reader, seen)
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: bytearray) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            got += head
            writer.write(reply(head.split(b" ")[1].strip(b"/")))
            if b"/first" in head:
                await answered[-1].wait()
                writer.write(reply(b"CANARY"))
                said[-1].set()

    return play, serve


_NEXT: Final = _headed("/next", "Connection: close\r\n")
_RESET: Final = _behind_a_reset()
_UNASKED: Final = _unasked()


def _never_came(text: bytes) -> Callable[[Seen], bool]:
    return lambda seen: text not in seen.all


ATTACKS: Final = {
    "Content-Length beside Transfer-Encoding": Attack(
        "one framing",
        _says(
            _headed("/first", ""),
            _headed(
                "/both",
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
                "POST",
            ),
        ),
        lambda seen: b"/first" in seen.all and b"/both" not in seen.all and b"smuggled" not in seen.all,
        _answers(),
    ),
    "a Host that is not the authority": Attack(
        "Host is the authority",
        _says(lambda port: f"GET http://{HOST}:{port}/other-host HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode()),
        _never_came(b"other-host"),
        _answers(),
    ),
    "a pipelined request for another host": Attack(
        "each request has its own verdict",
        _says(
            _headed("/first", ""),
            lambda port: (
                f"GET http://evil.example:{port}/second HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\n".encode()
            ),
        ),
        lambda seen: b"/first" in seen.all and b"/second" not in seen.all,
        _answers(),
    ),
    "a folded line": Attack(
        "no folded lines", _says(_headed("/fold", "X-A: 1\r\n x-evil: 2\r\n")), _never_came(b"/fold"), _answers()
    ),
    "a bare CR": Attack(
        "no bare CR", _says(_headed("/bare", "X-A: 1\rX-Evil: 2\r\n")), _never_came(b"/bare"), _answers()
    ),
    "an extension of a chunk": Attack(
        "chunk extensions end here",
        _says(_headed("/chunks", "Transfer-Encoding: chunked\r\n", b"3;canary=1\r\nabc\r\n0\r\n\r\n", "POST"), _NEXT),
        lambda seen: b"3\r\nabc\r\n0\r\n" in seen.all and b"canary" not in seen.all,
        _answers(),
    ),
    "a trailer that frames": Attack(
        "trailers that frame end here",
        _says(
            _headed(
                "/chunks",
                "Transfer-Encoding: chunked\r\n",
                b"3\r\nabc\r\n0\r\nContent-Length: 999\r\nX-Sum: 1\r\n\r\n",
                "POST",
            ),
            _NEXT,
        ),
        lambda seen: b"X-Sum: 1" in seen.all and b"999" not in seen.all,
        _answers(),
    ),
    "an interim response": Attack(
        "interim responses are not the answer",
        _says(_headed("/hints", ""), _NEXT),
        lambda seen: seen.client.endswith(b"next") and b"chunked" not in seen.client and b"103" in seen.client,
        _answers(hints=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + reply(b"real")),
    ),
    "HEAD": Attack(
        "no body behind HEAD",
        _says(_headed("/head", "", method="HEAD"), _NEXT),
        lambda seen: seen.client.endswith(b"next") and seen.client.count(b"HTTP/1.1 200 OK") == 2,
        _answers(head=b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n"),
    ),
    "204": Attack(
        "no body of 204 and 304",
        _says(_headed("/none", ""), _NEXT),
        lambda seen: seen.client.endswith(b"next"),
        _answers(none=b"HTTP/1.1 204 No Content\r\n\r\n"),
    ),
    "304": Attack(
        "no body of 204 and 304",
        _says(_headed("/none", ""), _NEXT),
        lambda seen: seen.client.endswith(b"next"),
        _answers(none=b"HTTP/1.1 304 Not Modified\r\nContent-Length: 30\r\n\r\n"),
    ),
    "a reset in a body without a length": Attack(
        "a reset is no end of a body", _RESET[0], lambda seen: not seen.client.endswith(b"0\r\n\r\n"), _RESET[1]
    ),
    "an answer before the request is whole": Attack(
        "an early answer waits for its request",
        _answered_early,
        lambda seen: len(seen.server) == 2 and b"abcdefghij" in seen.all and b"abcGET" not in seen.all,
        _early,
    ),
    "a client that leaves its sending side": Attack(
        "a moving response outlives a FIN",
        _leaves_its_sending_side,
        lambda seen: seen.client.endswith(b"tic" * 7),
        _streams,
    ),
    "a body over the limit": Attack(
        "limits",
        _says(
            _headed("/large", "Content-Length: 300\r\n", b"x" * 300, "POST"),
            _headed("/over", "Content-Length: 6\r\n", b"CANARY", "POST"),
        ),
        lambda seen: b"x" * 300 in seen.all and b"CANARY" not in seen.all,
        _answers(),
        Limits(bytes_per_hour=200),
    ),
    "a body over its length": Attack(
        "a body is bounded by its length",
        _says(_headed("/sized", "Content-Length: 3\r\n", b"abcCANARY", "POST")),
        lambda seen: b"abc" in seen.all and b"CANARY" not in seen.all,
        _answers(),
    ),
    "a response that nobody has asked for": Attack(
        "unsolicited bytes end a kept connection",
        _UNASKED[0],
        lambda seen: b"CANARY" not in seen.client and seen.client.endswith(b"second"),
        _UNASKED[1],
    ),
}


async def played(attack: Attack) -> tuple[Seen, int]:
    """Through a gate of its own; the port of the server, too."""
    seen = Seen()

    open_connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        got = bytearray()
        seen.server.append(got)
        try:
            await attack.serve(reader, writer, got)
        finally:
            open_connections -= 1

    principal = ANONYMOUS if attack.limits is None else Principal("demo@v1", "run", CallerSource.LISTENER)
    async with upstream(serve) as server:
        rules = policy(allow(HOST, server.port), limits=attack.limits)
        async with world(current=rules, principal=principal) as w:
            await attack.play(w, server.port, seen)
            await w.settled()
            seen.verdicts = w.audit.verdicts
            seen.causes = [end.cause for end in w.audit.ends]
        await until(lambda: open_connections == 0)  # all is read that was sent
        return seen, server.port
