"""Frames of an upstream, searched. A client of the real library `websockets` reads what comes out."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol, State

from cloned_proxy.proxy.secrets.echo import EchoError, EchoFilter
from cloned_proxy.proxy.secrets.frames import EchoGuard, FrameError, FrameScreen, close_frame
from cloned_proxy.proxy.transport.relay_guard import TurnedAwayError

CANARY = "sk-canary/4f+9="
SECRETS = EchoFilter([CANARY])
LONG = bytes(range(256)) * 300
"""More than is waited for."""


def frame(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=False)


def fragments(*parts: bytes, between: bytes = b"") -> bytes:
    out = frame(parts[0], fin=False)
    for part in parts[1:-1]:
        out += between + frame(part, Opcode.CONT, fin=False)
    return out + between + frame(parts[-1], Opcode.CONT)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def passed(data: bytes, size: int) -> bytes:
    """What goes on before, and instead of, what is refused."""
    screen = FrameScreen(SECRETS)
    out: list[bytes] = []
    with contextlib.suppress(EchoError):
        for piece in pieces(data, size):
            screen.feed(piece, out)
    return b"".join(out)


def messages(data: bytes) -> list[tuple[Opcode, bytes]]:
    """As a client reads them: messages put together, control frames where they came."""
    client = Protocol(CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(data)
    out: list[tuple[Opcode, bytes]] = []
    kind, parts = Opcode.CONT, b""
    for event in client.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
            out.append((event.opcode, bytes(event.data)))
            continue
        kind = event.opcode if event.opcode is not Opcode.CONT else kind
        parts += bytes(event.data)
        if event.fin:
            out.append((kind, parts))
            parts = b""
    assert client.parser_exc is None
    assert not parts
    return out


UNTOUCHED = {
    "text": frame(b"hello"),
    "empty": frame(b""),
    "binary": frame(bytes(range(200)), Opcode.BINARY),
    "16 bits": frame(LONG[:40_000], Opcode.BINARY),
    "64 bits": frame(LONG * 2, Opcode.BINARY),
    "fragments": fragments(b"one ", b"", b"two", between=frame(b"are you there", Opcode.PING)),
    "a beginning that is none": frame(CANARY[:-1].encode()) + frame(b"ok"),
    "a beginning in a fragment": fragments(b"x" + CANARY[:5].encode(), b"and so on"),
    "several": frame(b"a") + frame(b"b", Opcode.BINARY) + frame(b"", Opcode.PONG) + close_frame(1000, "done"),
}


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("data", UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_holds_no_secret_arrives(data: bytes, size: int) -> None:
    if size == 1:
        data = data[:100_000] if len(data) < 100_000 else frame(LONG[:3000], Opcode.BINARY)
    assert messages(passed(data, size)) == messages(data)


def test_a_frame_of_an_ordinary_size_stays_one_frame() -> None:
    data = frame(LONG[:60_000], Opcode.BINARY) + frame(b"x")
    assert passed(data, 1000) == data


def test_a_large_frame_flows_and_is_never_held_whole() -> None:
    screen, data = FrameScreen(SECRETS), frame(LONG * 40, Opcode.BINARY)
    out: list[bytes] = []
    came = most = 0
    for piece in pieces(data, 16_384):
        screen.feed(piece, out)
        came += len(piece)
        most = max(most, came - sum(map(len, out)))
    assert most < 2 * 65_536


SPELLED = {
    "raw": CANARY,
    "base64": base64.b64encode(f"Bearer {CANARY}".encode()).decode(),
    "percent": quote(CANARY, safe=""),
}


def hidden(spelled: bytes) -> dict[str, bytes]:
    middle = len(spelled) // 2
    ping = frame(b"ping", Opcode.PING)
    return {
        "text": frame(b"you sent " + spelled),
        "binary": frame(b"\xff" + spelled + b"\xff", Opcode.BINARY),
        "in a long frame": frame(LONG + spelled + LONG, Opcode.BINARY),
        "over fragments": fragments(b"a" + spelled[:3], spelled[3:6], spelled[6:] + b"z", between=ping),
        "byte by byte": fragments(*(spelled[at : at + 1] for at in range(len(spelled)))),
        "over messages": frame(spelled[:middle]) + ping + frame(spelled[middle:]),
        "over three messages": frame(spelled[:4]) + frame(spelled[4:8]) + frame(spelled[8:]),
        "ping": frame(spelled, Opcode.PING),
        "pong": frame(spelled, Opcode.PONG),
        "close": frame(b"\x03\xe8" + spelled, Opcode.CLOSE),
    }


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
@pytest.mark.parametrize("spelled", SPELLED.values(), ids=SPELLED)
@pytest.mark.parametrize("place", hidden(b"a secret of any kind"))
def test_a_secret_never_gets_through_whole(place: str, spelled: str, size: int) -> None:
    data = hidden(spelled.encode())[place]
    out = passed(data if size > 1 or len(data) < 9000 else hidden(spelled.encode())["text"], size)
    text = b"".join(payload for _, payload in parsed_parts(out))
    assert spelled.encode() not in text
    with pytest.raises(EchoError):
        FrameScreen(SECRETS).feed(data + frame(b"more"), [])


def parsed_parts(data: bytes) -> list[tuple[Opcode, bytes]]:
    client = Protocol(CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(data)
    return [(event.opcode, bytes(event.data)) for event in client.events_received() if isinstance(event, Frame)]


def test_a_control_frame_does_not_wait_for_a_fragment_that_may_begin_a_secret() -> None:
    screen, ping = FrameScreen(SECRETS), frame(b"alive?", Opcode.PING)
    out: list[bytes] = []
    screen.feed(frame(b"see " + CANARY[:6].encode(), fin=False) + ping, out)
    assert out == [frame(b"see ", fin=False), ping]
    screen.feed(frame(b" is no secret", Opcode.CONT), out)
    assert messages(b"".join(out))[-1] == (Opcode.TEXT, b"see " + CANARY[:6].encode() + b" is no secret")


UNREADABLE = {
    "compressed": bytes((0xC1, 2)) + b"ab",
    "another reserved bit": bytes((0xA1, 2)) + b"ab",
    "masked": Frame(Opcode.TEXT, CANARY.encode()).serialize(mask=True),
    "a reserved opcode": bytes((0x83, 2)) + b"ab",
    "a reserved control opcode": bytes((0x8B, 2)) + b"ab",
    "a fragmented ping": bytes((0x09, 2)) + b"ab",
    "a long ping": bytes((0x89, 126, 0, 126)) + b"a" * 126,
    "a continuation of nothing": bytes((0x80, 2)) + b"ab",
    "a message inside a message": frame(b"a", fin=False) + frame(b"b"),
    "a length beyond 63 bits": bytes((0x82, 127, 0xFF)) + b"\xff" * 7,
}


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_nobody_could_search_ends_it(data: bytes, size: int) -> None:
    screen = FrameScreen(SECRETS)
    with pytest.raises(FrameError):  # noqa: PT012  at whichever piece
        for piece in pieces(data + frame(b"more"), size):
            screen.feed(piece, [])


def test_the_client_is_told_by_a_close_frame() -> None:
    causes = []
    for data in (frame(b"before") + frame(CANARY.encode()), frame(b"before") + UNREADABLE["masked"]):
        with pytest.raises(TurnedAwayError) as turned_away:
            EchoGuard(SECRETS).from_server(data)
        before, (opcode, payload) = messages(turned_away.value.last)
        assert (before, opcode) == ((Opcode.TEXT, b"before"), Opcode.CLOSE)
        assert CANARY.encode() not in turned_away.value.last
        causes.append((turned_away.value.cause, int.from_bytes(payload[:2])))
    assert causes == [("refused:secret_echoed", 1008), ("upstream_error:response", 1002)]


def test_frames_of_the_client_are_nobodys_business() -> None:
    data = Frame(Opcode.TEXT, CANARY.encode()).serialize(mask=True)
    assert EchoGuard(SECRETS).from_client(data) is data
