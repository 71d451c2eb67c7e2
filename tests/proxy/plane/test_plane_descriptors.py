"""Whom the native plane accepts where descriptors run out: nobody with one of those that are kept, as in Python."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.proxy.plane import library
from tests.proxy.gate.clients import REFUSED, answer
from tests.proxy.plane.broken_plane import OF_DESCRIPTORS, broken
from tests.proxy.support import SERVING, World, need_plane, until, world

__all__ = ["broken"]
_CLIENTS: Final = 3
_ACCEPTED: Final = 1


@contextmanager
def _few_descriptors() -> Iterator[None]:
    """There are some, and all of them are kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # nothing that other tests have left open is closed meanwhile
    with ExitStack() as stack:
        # Of fewer than 64 an eighth is not enough for the clients of this test; and no gap is left below the limit.
        highest = max(64, *(int(each.name) for each in Path("/proc/self/fd").iterdir()))
        while (newest := os.dup(0)) <= highest:
            stack.callback(os.close, newest)
        os.close(newest)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (newest + 8, hard))
        yield


def _waited(w: World) -> bool:
    assert w.plane is not None
    w.plane.sweep()  # not the gate's: nobody makes room here
    return "open_files" in w.metrics.waits.lately(60)


def _entered(w: World) -> int:
    """How many were ever accepted. The places are one more while the plane looks for another client."""
    assert w.plane is not None
    return w.plane._told()[_ACCEPTED]


async def _accepted(w: World) -> int:
    """How many have come in: all, or those who came before somebody had to wait."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(_CLIENTS + 1)]
        with _few_descriptors():
            for client in clients[:-1]:
                client.connect(w.address)
            await until(lambda: _waited(w) or _entered(w) == _CLIENTS)
            accepted = _entered(w)
        # Once there are some again, everybody comes in.
        clients[-1].connect(w.address)
        clients[-1].sendall(REFUSED)
        clients[-1].setblocking(False)
        assert await answer(clients[-1]) == b"HTTP/1.1 403"
        return accepted


async def test_nobody_is_accepted_with_one_of_the_last_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has been accepted needs others besides: of an upstream, of a look-up."""
    need_plane()
    monkeypatch.setattr(SERVING, "native", True)
    async with world(head_timeout=60) as w:
        assert await _accepted(w) < _CLIENTS


@pytest.mark.parametrize("guard", OF_DESCRIPTORS)
async def test_without_the_guard_everybody_is(
    guard: str, broken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SERVING, "native", True)
    for out in ("", guard):
        path = broken(out)
        monkeypatch.setattr(library, "find", lambda path=path: path)
        async with world(head_timeout=60) as w:
            assert (await _accepted(w) == _CLIENTS) is bool(out)
