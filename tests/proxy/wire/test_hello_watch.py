"""Every plaintext ClientHello of a tunnel: which flows are TLS, which end the tunnel, whatever way they are cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloned_proxy.proxy.wire.client_hello import ServerNames
from cloned_proxy.proxy.wire.hello_watch import MAX_CLIENT_RECORDS, MAX_SERVER_BYTES, HelloWatch
from tests.proxy.wire.test_client_hello import message, names_extension, records, vector

RIGHT: Final = ("api.example.com",)
RETRY_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


def record(kind: int, body: bytes) -> bytes:
    return bytes((kind, 3, 3)) + vector(2, body)


def hello(*names: bytes, size: int = 16_000) -> bytes:
    return records(message(names_extension(*names) if names else b""), size)


def server_hello(random_bytes: bytes = b"r" * 32, more: bytes = b"\0" * 40, *, kind: int = 2) -> bytes:
    return bytes((kind,)) + vector(3, b"\x03\x03" + random_bytes + more)


GOOD, OTHER = hello(b"api.example.com"), hello(b"evil.example.net")
DONE = record(22, server_hello())
"""A ServerHello."""
RETRY = record(22, server_hello(RETRY_RANDOM))
COOKIE = record(22, server_hello(RETRY_RANDOM, b"c" * 600))
CCS, WARNING, EARLY = record(20, b"\1"), record(21, b"\1\x70"), record(23, b"e" * 300)
FINISHED = record(22, b"\1 encrypted, and by chance like a hello")

type Turn = tuple[str, bytes]
"""Who speaks (`c` or `s`), and what."""


@dataclass
class Play:
    """A watch with a judge that knows one right name, and what came through it."""

    reports: bool = False
    up: bytearray = field(default_factory=bytearray)
    judged: list[ServerNames | None] = field(default_factory=list)

    def run(self, turns: list[Turn], rng: random.Random | None = None, piece: int = 0) -> str:
        """How it ends: `done`, `open`, or `refused`. Bytes of a server that end it are not passed on."""
        watch = Judging(len(GOOD), self)
        for who, data in turns:
            for part in _cut(data, rng, piece):
                try:
                    if who == "s":
                        open_before = not watch.done
                        watch.look_at_server(part)
                        if open_before and watch.done:
                            self.up += watch.held
                    else:
                        self.up += part if watch.done else watch.from_client(part)
                except RefusedError:
                    return "refused"
        return "done" if watch.done else "open"


class RefusedError(Exception):
    pass


class Judging(HelloWatch):
    __slots__ = ("_play",)

    def __init__(self, judged: int, play: Play) -> None:
        super().__init__(judged)
        self._play = play

    def judge(self, names: ServerNames | None) -> bool:
        self._play.judged.append(names)
        if names == RIGHT:
            return True
        if self._play.reports:
            return False
        raise RefusedError


def _cut(data: bytes, rng: random.Random | None, piece: int) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = piece or (rng.choice((1, 2, 5, 6, 40, 300, 5000)) if rng is not None else len(data))
        yield data[at : at + size]
        at += size


FIRST: Final[Turn] = ("c", GOOD)
FLOWS: Final[dict[str, tuple[list[Turn], str]]] = {
    "a handshake": ([FIRST, ("s", DONE + record(22, b"\x0b certificate")), ("c", CCS + FINISHED)], "done"),
    "a handshake in small records": ([FIRST, ("s", b"".join(record(22, server_hello()[i:i + 1]) for i in range(78)))],
                                     "done"),
    "ServerHello and Certificate in one record": ([FIRST, ("s", record(22, server_hello() + b"\x0b\0\0\1x"))], "done"),
    "a retry": ([FIRST, ("s", RETRY + CCS), ("c", CCS + GOOD), ("s", DONE)], "done"),
    "a retry, change_cipher_spec behind the hello": ([FIRST, ("s", RETRY), ("c", GOOD + CCS), ("s", DONE)], "done"),
    "a retry without change_cipher_spec": ([FIRST, ("s", RETRY), ("c", GOOD), ("s", DONE)], "done"),
    "a retry with a cookie": ([FIRST, ("s", COOKIE), ("c", GOOD), ("s", DONE)], "done"),
    "a retry of a retry of a retry": ([FIRST, *[("s", RETRY), ("c", GOOD)] * 3, ("s", DONE)], "done"),
    "not waiting for the retry": ([("c", GOOD + GOOD), ("s", RETRY + DONE)], "done"),
    "early data accepted": ([("c", GOOD + CCS + EARLY), ("s", DONE), ("c", EARLY)], "done"),
    "early data refused": ([("c", GOOD + CCS + EARLY), ("s", RETRY), ("c", GOOD), ("s", DONE)], "done"),
    "a hello in many records": ([FIRST, ("s", RETRY), ("c", hello(b"api.example.com", size=1)), ("s", DONE)], "done"),
    "a warning before the ServerHello": ([FIRST, ("s", WARNING + DONE)], "done"),
    "a warning of the client": ([FIRST, ("s", RETRY), ("c", WARNING + GOOD), ("s", DONE)], "done"),
    "a fatal alert": ([FIRST, ("s", record(21, b"\2\x28"))], "open"),
    "nothing but the hello": ([FIRST], "open"),
    "anything behind the ServerHello": ([FIRST, ("s", DONE), ("c", OTHER + b"whatever")], "done"),
    "another name": ([FIRST, ("s", RETRY + CCS), ("c", CCS + OTHER)], "refused"),
    "another name, not waiting": ([("c", GOOD + OTHER)], "refused"),
    "another name behind early data": ([("c", GOOD + EARLY + OTHER)], "refused"),
    "another name in the third hello": ([FIRST, ("s", RETRY), ("c", GOOD), ("s", RETRY), ("c", OTHER)], "refused"),
    "another name in many records": ([FIRST, ("s", RETRY), ("c", hello(b"evil.example.net", size=3))], "refused"),
    "two names": ([FIRST, ("s", RETRY), ("c", hello(b"api.example.com", b"evil.example.net"))], "refused"),
    "no name": ([FIRST, ("s", RETRY), ("c", hello())], "refused"),
    "another message than a hello": ([FIRST, ("c", record(22, b"\2\0\0\1x"))], "refused"),
    "two hellos in one record": ([FIRST, ("c", record(22, GOOD[5:] * 2))], "refused"),
    "a hello cut in two by another record": ([FIRST, ("c", GOOD[:3] + vector(2, GOOD[5:25]) + CCS)], "refused"),
    "an empty record": ([FIRST, ("c", record(23, b""))], "refused"),
    "a record too long": ([FIRST, ("c", record(23, b"x" * 16_641)[:100])], "refused"),
    "a change_cipher_spec of two bytes": ([FIRST, ("c", record(20, b"\1\1"))], "refused"),
    "an unknown record": ([FIRST, ("c", record(24, b"heartbeat"))], "refused"),
    "HTTP from the client": ([FIRST, ("c", b"GET / HTTP/1.1\r\n\r\n")], "refused"),
    "HTTP from the server": ([FIRST, ("s", b"HTTP/1.1 400 Bad Request\r\n\r\n")], "refused"),
    "a banner of the server": ([FIRST, ("s", b"SSH-2.0-x\r\n")], "refused"),
    "a hello from the server": ([FIRST, ("s", GOOD)], "refused"),
    "application data before the ServerHello": ([FIRST, ("s", EARLY)], "refused"),
    "something behind a retry": ([FIRST, ("s", record(22, server_hello(RETRY_RANDOM) + server_hello()))], "refused"),
    "an alert inside a retry": ([FIRST, ("s", RETRY[:3] + vector(2, RETRY[5:45]) + WARNING)], "refused"),
    "a retry shorter than it says": ([FIRST, ("s", record(22, b"\2\0\0\x10" + RETRY[9:60]))], "refused"),
    "warnings without end": ([FIRST, ("s", WARNING * (MAX_SERVER_BYTES // 7 + 1))], "refused"),
    "tiny records without end": ([FIRST, ("c", record(23, b"x") * (MAX_CLIENT_RECORDS + 1))], "refused"),
    "hellos without end": ([FIRST, ("c", GOOD * (MAX_CLIENT_RECORDS + 1))], "refused"),
    "retries without end": ([FIRST, *[("s", COOKIE), ("c", GOOD)] * 60], "refused"),
}  # fmt: skip


def sent_up(turns: list[Turn]) -> bytes:
    return b"".join(data for who, data in turns if who == "c")


@pytest.mark.parametrize(("turns", "end"), FLOWS.values(), ids=FLOWS)
@pytest.mark.parametrize("piece", [0, 1, 3])
def test_flows(turns: list[Turn], end: str, piece: int) -> None:
    play = Play()
    assert play.run(turns, piece=piece) == end
    if end == "refused":
        assert b"evil" not in play.up
        assert sent_up(turns).startswith(play.up)
    else:
        assert play.up == sent_up(turns)
        assert set(play.judged) <= {RIGHT}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FLOWS)), st.integers())
def test_no_segmentation_changes_the_end(name: str, seed: int) -> None:
    turns, end = FLOWS[name]
    play = Play()
    assert play.run(turns, random.Random(seed)) == end
    assert b"evil" not in play.up or end == "done"
    if end != "refused":
        assert play.up == sent_up(turns)


_VALID: Final = (GOOD, CCS, WARNING, EARLY, hello(b"api.example.com", size=7))
_ANSWERS: Final = (RETRY, COOKIE, CCS, WARNING)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from((*((("c"), d) for d in _VALID), *(("s", d) for d in _ANSWERS))), max_size=12),
       st.integers(), st.booleans())  # fmt: skip
def test_every_valid_mixture_passes_whole_until_a_hello_with_another_name(
    turns: list[Turn], seed: int, other: bool
) -> None:
    played = [FIRST, *turns, ("c", OTHER) if other else ("s", DONE), ("c", b"the rest")]
    play = Play()
    assert play.run(played, random.Random(seed)) == ("refused" if other else "done")
    assert play.up == sent_up(played[:-2] if other else played)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from("cs"), st.integers())
def test_any_bytes_end_in_good_order_and_where_they_are_cut_does_not_matter(data: bytes, who: str, seed: int) -> None:
    turns: list[Turn] = [FIRST, (who, data)]
    whole, pieces = Play(), Play()
    assert whole.run(turns) == pieces.run(turns, random.Random(seed))
    assert whole.judged == pieces.judged


@pytest.mark.parametrize("name", [name for name, (_, end) in FLOWS.items() if end == "refused"])
@pytest.mark.parametrize("piece", [0, 1])
def test_where_refusals_are_only_reported_every_byte_passes_and_one_is_told(name: str, piece: int) -> None:
    turns = FLOWS[name][0]
    play = Play(reports=True)
    assert play.run(turns, piece=piece) == "done"
    assert play.up == sent_up(turns)
    assert [names for names in play.judged if names != RIGHT] == play.judged[-1:]


def test_early_data_of_any_size_is_not_kept() -> None:
    watch = Judging(len(GOOD), Play())
    watch.from_client(GOOD)
    for _ in range(100):
        assert len(watch.from_client(record(23, b"x" * 16_000) * 16)) == 16 * 16_005
    assert watch.held == b""
