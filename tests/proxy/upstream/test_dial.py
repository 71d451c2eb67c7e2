from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import uvloop

from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.upstream import dial as module
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError, dial, join
from tests.proxy.support import LOOPBACK, until, upstream

SILENT = ipaddress.ip_address("127.0.0.2")
SIX = ipaddress.ip_address("::1")


async def test_the_address_that_answers_is_connected_without_delay_for_small_writes() -> None:
    async with upstream() as server:
        with await dial((LOOPBACK,), server.port, seconds=20) as sock:
            assert sock.getpeername() == ("127.0.0.1", server.port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()


async def test_an_address_that_refuses_gives_way_to_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPT_DELAY", 5.0)
    async with upstream() as server:
        started = time.monotonic()
        with await dial((SILENT, LOOPBACK), server.port, seconds=20) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
        assert time.monotonic() - started < module.ATTEMPT_DELAY


def descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


@contextlib.contextmanager
def deaf(address: Address, port: int = 0) -> Iterator[int]:
    """A port of that address whose connects stay without an answer: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((str(address), port), backlog=0))
        place = listening.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(place)
        yield place[1]


@pytest.mark.alone
async def test_an_address_that_says_nothing_gives_way_after_the_attempt_delay() -> None:
    async with upstream() as server:
        with deaf(SILENT, server.port):
            started = time.monotonic()
            with await dial((SILENT, LOOPBACK), server.port, seconds=5) as sock:
                assert sock.getpeername()[0] == "127.0.0.1"
            assert 0.2 < time.monotonic() - started < 4.5


async def test_no_answer_at_all_times_out_and_leaves_nothing_open() -> None:
    with deaf(SILENT) as port:
        for addresses in ((SILENT,), (SILENT, SILENT)):
            gc.collect()  # what tests before this one have left is not to end meanwhile
            before = descriptors()
            with pytest.raises(DialError) as caught:
                await dial(addresses, port, seconds=0.4)
            assert caught.value.timed_out
            assert caught.value.phase == "connect"
            assert descriptors() == before


async def test_a_dial_that_is_called_off_leaves_nothing_open() -> None:
    with deaf(SILENT) as port:
        gc.collect()
        before = descriptors()
        dialling = asyncio.create_task(dial((SILENT, SILENT), port, seconds=5))
        await until(lambda: descriptors() == before + 2)
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)
        assert descriptors() == before


async def test_every_address_refusing_is_no_timeout_and_names_no_address() -> None:
    async with upstream() as server:
        port = server.port
    await asyncio.sleep(0.05)
    with pytest.raises(DialError) as caught:
        await dial((LOOPBACK, SILENT), port, seconds=2)
    assert not caught.value.timed_out
    assert "127." not in str(caught.value)


async def test_running_out_of_descriptors_is_our_own_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module, "_begin", exhausted)
    for addresses in ((LOOPBACK,), (SILENT, LOOPBACK)):
        with pytest.raises(ExhaustedError):
            await dial(addresses, 443, seconds=1)


def test_families_alternate_and_the_preferred_one_comes_first() -> None:
    four = [ipaddress.ip_address(f"192.0.2.{i}") for i in (1, 2, 3)]
    assert list(module.interleaved((SIX, *four))) == [SIX, *four]
    assert list(module.interleaved((four[0], four[1], SIX, four[2]))) == [four[0], SIX, four[1], four[2]]


class _Aborting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_socket_cut_while_it_is_joined_is_closed_once(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def joined_and_cut() -> None:
        async with upstream() as server:
            sock = await dial((LOOPBACK,), server.port, seconds=2)
            number = sock.fileno()
            await join(sock, _Aborting)
            await asyncio.sleep(0.01)
            other = os.open(os.devnull, os.O_RDONLY)  # another flow gets the number
            if other != number:
                os.dup2(other, number)
                os.close(other)
            del sock
            gc.collect()
            os.close(number)  # fails when the first flow's object has closed it

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(joined_and_cut())
