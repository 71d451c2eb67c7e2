"""A credential does not stay in memory that the native plane has given back, whatever became of the head it came in.

The plane runs here without the gate, whose objects are Python's to free, and the credential is never one object of
this process either: it is put together in buffers that are wiped behind each use. Then all memory is searched for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloned_proxy.proxy.grants import budget, denial_budget
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane.cells import PlaneCells
from cloned_proxy.proxy.plane.configuration import config_of
from cloned_proxy.store.settings.config import ProxySettings
from tests.proxy.plane.broken_plane import OF_MEMORY, broken
from tests.proxy.support import need_plane

__all__ = ["broken"]

_LENGTH = 48
_SEARCHED_FIRST = 8
_PIECE = 1 << 20
_LATER = 2**62
_LISTENER = 1


class Credential:
    """Known byte by byte alone."""

    def __init__(self) -> None:
        self._one, self._other = os.urandom(_LENGTH), os.urandom(_LENGTH)

    def __getitem__(self, at: int) -> int:
        return ord("A") + (self._one[at] ^ self._other[at]) % 26

    def between(self, before: bytes, behind: bytes) -> ctypes.Array[ctypes.c_char]:
        """A buffer with it, for `wipe`."""
        made = (ctypes.c_char * (len(before) + _LENGTH + len(behind)))()
        view = memoryview(made).cast("B")
        view[: len(before)] = before
        for at in range(_LENGTH):
            view[len(before) + at] = self[at]
        view[len(before) + _LENGTH :] = behind
        return made

    def copies(self) -> int:
        """How many there are in the memory of this process."""
        start = bytes(self[at] for at in range(_SEARCHED_FIRST))
        found = 0
        for first, last in _writable():
            for piece in _pieces(first, last):
                at = piece.find(start)
                while at >= 0:
                    rest = range(_SEARCHED_FIRST, min(_LENGTH, len(piece) - at))
                    found += len(rest) > 2 * _SEARCHED_FIRST and all(piece[at + each] == self[each] for each in rest)
                    at = piece.find(start, at + 1)
        return found


def _writable() -> Iterator[tuple[int, int]]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, mode, *_ = line.split()
        if mode.startswith("rw"):
            first, _, last = place.partition("-")
            yield int(first, 16), int(last, 16)


def _pieces(first: int, last: int) -> Iterator[bytearray]:
    """What is there, each piece with the end of the one before it."""
    buffer = bytearray(_PIECE)
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        while first < last:
            try:
                count = os.preadv(memory, [memoryview(buffer)[: last - first]], first)
            except OSError:  # it is gone by now, or none of ours
                return
            yield buffer[:count]
            first += count if count == last - first else max(count - _LENGTH, 1)
    finally:
        ctypes.memset((ctypes.c_char * _PIECE).from_buffer(buffer), 0, _PIECE)
        os.close(memory)


def wipe(*buffers: ctypes.Array[ctypes.c_char]) -> None:
    for each in buffers:
        ctypes.memset(each, 0, len(each))


class Alone:
    """A plane with one thread and one listener, and nobody behind it."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.native = library.load(path)
        self.cells = PlaneCells()
        self.front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.front.setblocking(False)
        self.handle = self.native.plane_start(
            ctypes.byref(config_of(ProxySettings(), self.cells, threads=1, queue=1000))
        )
        stack.callback(self.native.plane_free, self.handle)
        stack.callback(self.native.plane_stop, self.handle)
        self.native.plane_listen(self.handle, self.front.fileno(), _LISTENER, 0)

    def ask(self, head: ctypes.Array[ctypes.c_char]) -> bytes:
        with socket.create_connection(self.front.getsockname(), timeout=60) as client:
            client.sendall(head)
            return client.recv(12)

    def numbers(self) -> list[int]:
        told = (ctypes.c_int64 * library.NUMBERS)()
        self.native.plane_numbers(self.handle, ctypes.byref(told))
        return list(told)

    def settled(self) -> None:
        """Waits until no connection is left."""
        deadline = time.monotonic() + 60
        while self.numbers()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def _head(credential: Credential, target: bytes) -> ctypes.Array[ctypes.c_char]:
    start = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic " % (target, target)
    return credential.between(start, b"\r\n\r\n")


def refused(plane: Alone, credential: Credential) -> None:
    head = _head(credential, b"denied.test:443")
    key = (ctypes.c_char * (5 + len(head)))()
    memoryview(key).cast("B")[:5] = _LISTENER.to_bytes(4, "little") + b"\x03"
    memoryview(key).cast("B")[5:] = memoryview(head).cast("B")
    account = plane.cells.address("denials", denial_budget.ACCOUNT_WIDTH)
    form = library.RefusalForm(number=1, expires=_LATER, account=account, per_minute=1000)
    content = b'{"at":\x1e,"id":"\x1e",\x1e"method":"CONNECT"}\x1eHTTP/1.1 403 Forbidden\r\n\r\n\x1e'
    verdict = plane.native.plane_publish_refusal(plane.handle, key, len(key), ctypes.byref(form), content, len(content))
    assert plane.ask(head) == b"HTTP/1.1 403"
    wipe(head, key)
    _take_back(plane, verdict)


def granted(plane: Alone, credential: Credential) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        target = b"a.test:%d" % port
        head = _head(credential, target)
        key = credential.between(_LISTENER.to_bytes(4, "little") + target + b"\0pBasic ", b"")
        form = library.Publication(
            number=1,
            needs_hello=False,
            expires=_LATER,
            account=plane.cells.address("account", budget.ACCOUNT_WIDTH),
            concurrent=library.NO_LIMIT,
            requests_per_minute=library.NO_LIMIT,
            bytes_per_hour=library.NO_LIMIT,
        )
        content = b'127.0.0.1:%d\x1ea.test\x1e}\x1e\x1e\x1e{"at":\x1e,"id":"\x1e"}' % port
        verdict = plane.native.plane_publish(plane.handle, key, len(key), ctypes.byref(form), content, len(content))
        assert plane.ask(head) == b"HTTP/1.1 200"
    wipe(head, key)
    _take_back(plane, verdict)


def handed_over(plane: Alone, credential: Credential) -> None:
    head = _head(credential, b"unknown.test:443")
    taken, room = library.HandedOver(), (ctypes.c_char * _PIECE)()
    with socket.create_connection(plane.front.getsockname(), timeout=60) as client:
        client.sendall(head)
        deadline = time.monotonic() + 60
        while not plane.native.plane_take(plane.handle, ctypes.byref(taken), room, _PIECE):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert taken.client_length == len(head)
        plane.native.plane_adopted(plane.handle, 0, None)
        os.close(taken.fd)
    wipe(head, room)


def _take_back(plane: Alone, verdict: int | None) -> None:
    assert verdict is not None
    plane.native.verdict_withdraw(verdict)
    plane.native.plane_forget(plane.handle)
    plane.settled()
    plane.native.verdict_free(verdict)


_WAYS = [refused, granted, handed_over]


@pytest.mark.parametrize("way", _WAYS)
def test_no_credential_stays_in_memory_that_was_given_back(way: Callable[[Alone, Credential], None]) -> None:
    need_plane()
    path = library.find()
    assert path is not None
    assert _left_behind(path, way) == 0


@pytest.mark.parametrize("guard", OF_MEMORY)
def test_without_either_guard_it_is_found(guard: str, broken: Callable[[str], Path]) -> None:
    assert _left_behind(broken(guard), refused) > 0
    assert _left_behind(broken(""), refused) == 0


def _left_behind(path: Path, way: Callable[[Alone, Credential], None]) -> int:
    credential = Credential()
    with contextlib.ExitStack() as stack:
        plane = Alone(path, stack)
        way(plane, credential)
        plane.settled()
        return credential.copies()
