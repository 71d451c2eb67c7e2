"""The door of Python's gate by itself: when it opens again, what it gives back, how many come in at once."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from contextlib import ExitStack

import pytest

from cloned_proxy.proxy.gate import door as doors
from cloned_proxy.proxy.gate.door import Door
from tests.proxy.gate.clients import REFUSED, answer, client, connected, somebody_waits
from tests.proxy.support import World, until, world


def door_of(w: World) -> Door:
    door = w.gate._doors[w.listener]
    assert isinstance(door, Door)
    return door


async def test_who_waits_is_served_when_somebody_leaves_and_not_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doors, "_FULL_SECONDS", 3600.0)
    async with world(max_connections=1, head_timeout=60) as w:
        with ExitStack() as stack:
            first = await client(stack, socket.AF_INET, w.address)
            second = await client(stack, socket.AF_INET, w.address)
            await asyncio.get_running_loop().sock_sendall(second, REFUSED)
            await until(lambda: connected(w) == 1 and somebody_waits(w) and door_of(w)._full)
            first.close()
            assert await answer(second) == b"HTTP/1.1 403"


async def test_a_place_for_which_nobody_came_is_given_back() -> None:
    """As where another worker was quicker."""
    async with world() as w:
        for _ in range(3):
            door_of(w)._accept()
        assert connected(w) == 0


async def test_where_nobody_can_be_accepted_it_pauses_and_gives_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: socket.socket) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with world() as w:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", exhausted)
            door_of(w)._accept()
        assert door_of(w)._again is not None
        assert connected(w) == 0


async def test_those_who_are_open_have_their_turn_beside_a_rush() -> None:
    async with world(head_timeout=60) as w:
        with ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(socket.socket())
                sock.connect(w.address)  # the loop does not run meanwhile
            door_of(w)._accept()
            assert connected(w) == doors._AT_ONCE == 8


async def test_a_door_that_closes_while_it_is_paused_does_not_open_again() -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with world(max_connections=1, head_timeout=60) as w:
        with ExitStack() as stack:
            for _ in range(2):
                await client(stack, socket.AF_INET, w.address)
            await until(lambda: door_of(w)._again is not None)
            w.gate.stop_accepting()
            await asyncio.sleep(3 * doors._FULL_SECONDS)
    assert unhandled == []


async def test_nobody_is_accepted_with_one_of_the_last_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has been accepted needs others besides: of an upstream, of a look-up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with world(head_timeout=60) as w:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(socket.socket()).connect(w.address)  # the loop does not run meanwhile
            monkeypatch.setattr(resource, "getrlimit", lambda _: (8, hard))  # more are open
            for _ in range(2):
                door_of(w)._accept()
                assert connected(w) == 1
            assert somebody_waits(w)
