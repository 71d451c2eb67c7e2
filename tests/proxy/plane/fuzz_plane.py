"""The readers of the native plane against those of Python, which are the specification: `make fuzz` runs a million.

What the plane reads, Python must read the same way; whatever it does not read goes to Python and is no difference.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
import time
from typing import Final

from cloned_proxy.policy.callers.identity import credential_fields
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.upstream.chained.connect_answer import ConnectAnswer
from cloned_proxy.proxy.wire.client_hello import ClientHelloReader, Unread
from cloned_proxy.proxy.wire.head import HeadError, parse_head
from cloned_proxy.proxy.wire.hello_watch import HelloWatch
from tests.proxy import fuzz
from tests.proxy.plane import fuzz_plane_plain
from tests.proxy.plane.fuzz_plane_plain import PlainReaders
from tests.proxy.support import SERVER_HELLO, as_server_hello

_MOST_FIELDS: Final = 200
_MORE, _OTHER, _PASSES = 0, 1, 2
_NAMES: Final = ("example.com", "api.example.com", "evil.example.net")


class PlaneReaders:
    """The library, asked about one input at a time. Raises AssertionError where Python reads otherwise."""

    def __init__(self) -> None:
        path = library.find()
        if path is None:
            raise FileNotFoundError("the native plane is not built: make plane")
        self._library: Final = library.load(path)
        self.plain: Final = PlainReaders(self._library)

    def check_head(self, data: bytes) -> bool:
        """Whether the plane reads it."""
        found = (ctypes.c_size_t * 3)()
        length = self._library.plane_reads_head(data, len(data), 65_536, _MOST_FIELDS, found)
        if not length:
            return False
        try:
            head = parse_head(data[:length], names_us=lambda *_: False, max_fields=_MOST_FIELDS)
        except HeadError as error:
            raise AssertionError(f"Python refuses {data!r}: {error}") from error
        start, end, credentials = found
        assert head.method == "CONNECT", data
        assert head.target == data[start:end].decode("ascii"), data
        assert len(credential_fields(head.fields)) == credentials, data
        assert data[:length].count(b"\r\n\r\n") == 1, data
        return True

    def check_hello(self, data: bytes, name: str, *, literal: bool) -> bool:
        """Whether the plane lets it pass for that name."""
        wanted = name.encode("ascii")
        outcome = self._library.plane_reads_hello(data, len(data), wanted, len(wanted), literal)
        reader = ClientHelloReader()
        names = reader.feed(data)
        if outcome == _PASSES:
            assert isinstance(names, tuple), data
            assert reader.end == len(data), data
            assert names == () if literal else [each.lower() for each in names] == [name], data
        if outcome == _MORE:
            assert names is Unread.NEED_MORE, data
        return bool(outcome == _PASSES)

    def check_answer(self, data: bytes) -> bool:
        """Whether the plane looks no further behind this of a server."""
        accepted = bool(self._library.plane_reads_answer(data, len(data)))
        if accepted:
            watch = _Watch(0)
            watch.look_at_server(data)
            assert watch.done, data
            assert not watch.judged, data
        return accepted

    def check_front(self, data: bytes) -> bool:
        """Whether the plane takes it for a tunnel through the proxy in front."""
        length = self._library.plane_reads_front(data, len(data), 65_536, _MOST_FIELDS)
        if length:
            answer = ConnectAnswer(max_bytes=65_536, max_fields=_MOST_FIELDS, server_first=True)
            assert answer.feed(data) == length, data
            assert answer.open, data
        return bool(length)


class _Watch(HelloWatch):
    __slots__ = ("judged",)

    def __init__(self, judged: int) -> None:
        super().__init__(judged)
        self.judged = False

    def judge(self, names: object) -> bool:
        self.judged = True
        return False


def answers(rng: random.Random) -> bytes:
    """What a server may say first."""
    hello = SERVER_HELLO if rng.random() < 0.5 else as_server_hello(fuzz.hellos(rng))
    return fuzz.mutate(hello, (b"\x16\x03\x03", b"\x15\x03\x03\x00\x02", b"\x02\x00\x00"), rng)


_FRONTS: Final = (
    b"HTTP/1.1 200 Connection established\r\n\r\n",
    b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: now\r\nVia: 1.1 corp\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
)
_FRONT_PIECES: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"HTTP/1.1 ", b"100", b"204", b"407", b"X: y\r\n", b" a",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: websocket\r\n", b"\xff", b"\0", b"<html>",
)  # fmt: skip


def fronts(rng: random.Random) -> bytes:
    """What a proxy in front may say to CONNECT."""
    return fuzz.mutate(rng.choice(_FRONTS), _FRONT_PIECES, rng)


def once(readers: PlaneReaders, rng: random.Random) -> tuple[bool, bool, bool, bool]:
    """One input of each kind; which of them the plane took."""
    return (
        readers.check_head(fuzz.heads(rng)),
        readers.check_hello(fuzz.hellos(rng), rng.choice(_NAMES), literal=rng.random() < 0.2),
        readers.check_answer(answers(rng)),
        readers.check_front(fronts(rng)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    chosen = parser.parse_args()
    readers, rng, taken = PlaneReaders(), random.Random(chosen.seed), [0, 0, 0, 0]
    for _ in range(chosen.inputs):
        taken = [count + new for count, new in zip(taken, once(readers, rng), strict=True)]
    heads, hellos, told, opened = taken
    sys.stdout.write(
        f"plane: {chosen.inputs} inputs each; it took {heads} heads, {hellos} hellos, {told} answers, "
        f"{opened} of proxies in front\n"
    )
    failed = 0
    for kind in fuzz_plane_plain.KINDS:
        passed, failures = fuzz_plane_plain.run(readers.plain, kind, chosen.inputs, rng)
        sys.stdout.write(f"plane: {chosen.inputs} inputs of kind {kind}; {passed} passed in both, {failures} differ\n")
        failed += failures
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
