from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.proxy.grants.cells import OwnCells, SharedCells, clear_first_cells
from cloned_proxy.proxy.grants.crowd import Crowd, fair_share
from cloned_proxy.proxy.transport.listener import Listener, bind_unix
from tests.proxy.support import world


def listener(name: str) -> Listener:
    with socket.socket() as sock:  # only its identity counts here
        return Listener(sock, None, name)


def enter(crowd: Crowd, place: Listener, count: int, *, contended: bool = False) -> list[object]:
    """Connections of which `count` tried to enter, those who were let in."""
    tried = [object() for _ in range(count)]
    return [one for one in tried if crowd.enter(one, place, contended=contended)]


@pytest.mark.parametrize(("places", "share"), [(1, 1), (2, 2), (4, 4), (5, 4), (10, 8), (20_000, 16_000)])
def test_a_share_is_four_fifths_rounded_up(places: int, share: int) -> None:
    assert fair_share(places) == share


def test_the_cap_holds_and_a_place_that_is_left_is_free() -> None:
    crowd, host = Crowd(3, OwnCells()), listener("host")
    inside = enter(crowd, host, 5)
    assert len(inside) == len(crowd) == 3
    crowd.leave(inside[0])
    crowd.leave(inside[0])
    crowd.leave(object())
    assert len(enter(crowd, host, 5)) == 1


def test_a_listener_leaves_a_fifth_to_the_others() -> None:
    crowd, greedy, other = Crowd(10, OwnCells()), listener("greedy"), listener("other")
    inside = enter(crowd, greedy, 20, contended=True)
    assert len(inside) == 8
    assert len(enter(crowd, other, 20, contended=True)) == 2
    crowd.leave(inside[0])
    assert len(enter(crowd, greedy, 20, contended=True)) == 1


def test_a_listener_that_is_alone_may_take_everything() -> None:
    assert len(enter(Crowd(10, OwnCells()), listener("only"), 20)) == 10


def test_the_cap_holds_over_workers_and_a_dead_one_holds_no_place(tmp_path: Path) -> None:
    crowds = [Crowd(10, SharedCells(tmp_path, own=number, workers=2)) for number in range(2)]
    host = listener("host")
    assert len(enter(crowds[0], host, 6)) == 6
    assert len(enter(crowds[1], host, 6)) == 4
    clear_first_cells(tmp_path, 0)
    assert len(enter(crowds[1], host, 20)) == 6


async def test_a_flood_on_one_listener_of_the_gate_leaves_room_on_the_other(tmp_path: Path) -> None:
    path = tmp_path / "slot.sock"
    request = b"GET http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\nConnection: close\r\n\r\n"
    loop = asyncio.get_running_loop()

    async def client(stack: ExitStack, family: socket.AddressFamily, address: object) -> socket.socket:
        sock = stack.enter_context(socket.socket(family))
        sock.setblocking(False)
        await loop.sock_connect(sock, address)  # type: ignore[arg-type]  # a path, for the other family
        return sock

    async with world(max_connections=5) as w:
        await w.gate.open(Listener(bind_unix(path), ANONYMOUS, "slot"))
        with ExitStack() as stack:
            flood = [await client(stack, socket.AF_INET, w.address) for _ in range(5)]
            assert await loop.sock_recv(flood[-1], 12) == b"HTTP/1.1 503"
            other = await client(stack, socket.AF_UNIX, str(path))
            await loop.sock_sendall(other, request)
            assert await loop.sock_recv(other, 12) == b"HTTP/1.1 403"
