"""Requests on one client connection whose endings go wrong, and a model that says what each next request must become.

The client's bytes, read by their own framing and nothing else, are a list of requests. Whatever becomes of one of them,
the proxy may act on the first so many of that list, in order, each as it was sent, and on nothing else: no byte of a
body is ever a request. The judges are the record of decisions and what arrives upstream; the answers come after them.

Every sized body here is as long as every head, and is itself a request for `/evil`: a proxy that throws a body away
twice takes the next head for it, and then does what the next body says.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from tests.proxy.trouble import Trouble

HEAD: Final = 420
"""Bytes of every head, and of every body that is not of another size on purpose."""
_PATIENCE: Final = 20.0
_TOO_SLOW: Final = 504

# What becomes of a request -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """One way in which a request ends."""

    name: str
    statuses: frozenset[int]
    """What the client may be told."""
    place: str = "upstream"
    """Where it is sent: `upstream`, or what our own refusals are made of."""
    keeps: bool | None = True
    """Whether the connection has to last; None when it may, and may not."""
    whole_only: bool = False
    """It takes a whole request to get there."""
    resets: bool = False
    """Whether the client may be reset without a word."""


def _one(name: str, status: int, **more: object) -> Ending:
    return Ending(name, frozenset({status}), **more)  # type: ignore[arg-type]


OK: Final = _one("ok", 200, whole_only=True)
UPSTREAM_ENDINGS: Final = (
    OK,
    _one("reset", 502),
    _one("fin", 502),
    _one("garbage", 502),
    _one("silent", 504, whole_only=True),
    _one("cut", 403),
    _one("interim-reset", 502),
    _one("interim-garbage", 502),
    _one("early", 413),
    _one("early-fin", 413, keeps=None),
    Ending("early-reset", frozenset({413, 502}), keeps=None),
    _one("torn", 502, keeps=None, resets=True),  # 502 where the reset of the upstream outran its part of a response
    _one("interim-torn", 502, keeps=None, resets=True),
    _one("echo", 502),
)
OWN_ENDINGS: Final = (
    _one("refused", 403),
    _one("bad-host", 400, keeps=False),
    _one("bad-credential", 407, place="credential"),
    _one("unreachable", 502, place="nobody"),
    _one("reset-at-accept", 502, place="resets"),
)
ENDINGS: Final = {ending.name: ending for ending in (*UPSTREAM_ENDINGS, *OWN_ENDINGS)}
LIMITED: Final = _one("limited", 429)
ALLOWED_PATHS: Final = tuple(f"/{name}/**" for name in (*ENDINGS, LIMITED.name, "evil") if name != "echo")
INJECTING_PATHS: Final = ("/echo/**",)

NO_BODY, SIZED, CHUNKED, EXPECT = "no body", "sized", "chunked", "expect"
FRAMINGS: Final = (SIZED, CHUNKED, EXPECT)
HEAD_ONLY, PART, WHOLE = "head", "part", "whole"
WHENS: Final = (HEAD_ONLY, PART, WHOLE)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the places are."""

    host: str
    upstream: int
    nobody: int = 0
    """Allowed, and nobody listens."""
    resets: int = 0
    """Allowed; who listens there resets each connection when it is made."""
    tunnelled: bool = False
    """Inside an opened tunnel: there is one place, and a target has the origin form."""

    def of(self, place: str) -> int:
        return {"nobody": self.nobody, "resets": self.resets}.get(place, self.upstream)

    @property
    def endings(self) -> tuple[Ending, ...]:
        return tuple(e for e in ENDINGS.values() if not self.tunnelled or e.place == "upstream")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a sequence."""

    number: int
    ending: Ending
    framing: str = SIZED
    when: str = WHOLE
    """How much of it the upstream reads before it ends it."""
    size: int = HEAD

    @property
    def path(self) -> str:
        return f"/{self.ending.name}/{self.when}/{self.number}"

    @property
    def method(self) -> str:
        if self.ending.name == "refused":
            return "DELETE"
        return "GET" if self.framing == NO_BODY else "POST"

    def keeps(self, ports: Ports) -> bool | None:
        """Whether the next request has to be served on the same connection."""
        if self.ending is OK or self.ending.keeps is False:
            return self.ending.keeps
        small = self.framing == NO_BODY or (self.framing == SIZED and self.size <= 65_536)
        # The inspection closes behind each answer of its own: it may, and so it need not be modelled.
        return self.ending.keeps if small and not ports.tunnelled else None

    def may_be_reset(self, ports: Ports) -> bool:
        return self.ending.resets or (ports.tunnelled and self.ending.name == "cut")


def encode(asked: Asked, ports: Ports, rng: random.Random) -> tuple[bytes, bytes]:
    """Head and body as they go over the wire."""
    authority = f"{ports.host}:{ports.of(asked.ending.place)}"
    fields = f"Host: {'elsewhere.test' if asked.ending.name == 'bad-host' else authority}\r\n"
    if asked.ending.place == "credential":
        fields += "Proxy-Authorization: Basic bm86Ym9keQ==\r\n"
    if asked.framing in (SIZED, EXPECT):
        fields += f"Content-Length: {asked.size}\r\n"
    if asked.framing == CHUNKED:
        fields += "Transfer-Encoding: chunked\r\n"
    if asked.framing == EXPECT:
        fields += "Expect: 100-continue\r\n"
    target = asked.path if ports.tunnelled else f"http://{authority}{asked.path}"
    head = _padded(f"{asked.method} {target} HTTP/1.1\r\n{fields}")
    body = body_of(asked, ports)
    return head, _chunks(body, rng) if asked.framing == CHUNKED else body


def body_of(asked: Asked, ports: Ports) -> bytes:
    """Without its framing: a request, again and again."""
    origin = "" if ports.tunnelled else f"http://{ports.host}:{ports.upstream}"
    evil = _padded(f"GET {origin}/evil/whole/0 HTTP/1.1\r\nHost: {ports.host}:{ports.upstream}\r\n")
    return b"" if asked.framing == NO_BODY else (evil * (asked.size // HEAD + 1))[: asked.size]


def _padded(head: str) -> bytes:
    head += "X-Pad: \r\n\r\n"
    return head.replace("X-Pad: ", "X-Pad: " + "x" * (HEAD - len(head))).encode()


def _chunks(body: bytes, rng: random.Random) -> bytes:
    made, at = b"", 0
    while at < len(body):
        piece = body[at : at + rng.choice((1, 100, HEAD, 5000))]
        made += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += len(piece)
    return made + b"0\r\n\r\n"


# The client ----------------------------------------------------------------------------------------------------------


class Wire(asyncio.Protocol):
    """A client that keeps what it is told until the connection ends, in whatever way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.told = bytearray()
        self.ended = False
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.told += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._news.set()

    async def answers(self, count: int) -> None:
        """Until that many final answers have come, or none can come any more."""
        async with asyncio.timeout(_PATIENCE):
            while not self.ended and len(read_answers(bytes(self.told))) < count:
                self._news.clear()
                await self._news.wait()


def read_answers(told: bytes) -> list[tuple[int, bool]]:
    """Status, and whether it says that the connection closes, of each whole final response."""
    found = []
    while (end := told.find(b"\r\n\r\n") + 4) > 3:
        head = told[:end].decode("latin-1").lower()
        length = re.search(r"\r\ncontent-length: (\d+)\r\n", head)
        size = int(length[1]) if length else 0
        status = int(head.split(" ")[1])
        if len(told) < end + size:
            break
        told = told[end + size :]
        if status >= 200:
            found.append((status, "\r\nconnection: close\r\n" in head))
    return found


@dataclass(slots=True)
class Scene:
    """A proxy, the trouble behind it, and what is on record."""

    ports: Ports
    trouble: Trouble
    connect: Callable[[Wire], Awaitable[object]]
    decisions: Callable[[], list[tuple[str, str]]]
    """Method and path of every request since `forget`."""
    forget: Callable[[], None]
    settled: Callable[[], Awaitable[None]]
    """Until the proxy has let go of the client."""


type Step = bytes | int | str
"""Bytes to send; a number of answers to wait for; `fin` or `reset`."""


class SequenceError(AssertionError):
    """The proxy did something that the model does not allow."""


async def play(scene: Scene, sequence: Sequence[Asked], steps: Sequence[Step]) -> None:
    """Raises SequenceError. `steps` spell the bytes of the sequence, or of its beginning."""
    scene.forget()
    wire = Wire()
    await scene.connect(wire)
    given_up = False
    for step in steps:
        if isinstance(step, int):
            await wire.answers(step)
        elif isinstance(step, bytes):
            wire.transport.write(step)
            await asyncio.sleep(0)
        else:
            given_up = True
            wire.transport.write_eof() if step == "fin" and wire.transport.can_write_eof() else wire.transport.abort()
    try:
        await wire.answers(len(sequence) + given_up)
    except TimeoutError:
        raise SequenceError(f"no end: {bytes(wire.told)[-300:]!r}") from None
    finally:
        wire.transport.abort()
    await scene.settled()
    judge(scene, sequence, read_answers(bytes(wire.told)), given_up=given_up)


def judge(scene: Scene, sequence: Sequence[Asked], answers: list[tuple[int, bool]], *, given_up: bool) -> None:
    """The model. Raises SequenceError."""
    decided = scene.decisions()
    if decided != [(asked.method, asked.path) for asked in sequence][: len(decided)]:
        raise SequenceError(f"decided on what nobody asked for: {decided}")
    _judge_arrivals(scene, sequence)
    if len(answers) > len(sequence):
        raise SequenceError(f"answers to nothing: {answers}")
    goes_on: bool | None = True
    for asked, (status, closes) in zip(sequence, answers, strict=False):
        # On a busy machine any upstream may be too slow; what was sent of the body then is anybody's guess.
        late = status == _TOO_SLOW and asked.ending in UPSTREAM_ENDINGS and asked.ending.name != "silent"
        if status not in asked.ending.statuses and not late:
            raise SequenceError(f"{asked}: {status}")
        goes_on = None if late else asked.keeps(scene.ports)
        if closes and goes_on:
            raise SequenceError(f"{asked}: the connection is not kept")
    if given_up or len(answers) == len(sequence) or not goes_on:
        return
    unanswered = sequence[len(answers)]
    if not unanswered.may_be_reset(scene.ports):
        raise SequenceError(f"{unanswered}: no answer, behind {answers}")


def _judge_arrivals(scene: Scene, sequence: Sequence[Asked]) -> None:
    """What is upstream is what was sent, whole or cut off, in order."""
    last = 0
    for arrival in scene.trouble.seen:
        method, path, _ = arrival.line.split(" ")
        number = int(path.rpartition("/")[2])
        if (
            number < last
            or number >= len(sequence)
            or (method, path) != (sequence[number].method, sequence[number].path)
        ):
            raise SequenceError(f"arrived and was not sent: {arrival.line}")
        last = number
        if not body_of(sequence[number], scene.ports).startswith(arrival.body):
            raise SequenceError(f"{path} arrived with a body that was not sent")
