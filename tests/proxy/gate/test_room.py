"""Who makes room: nobody who is being told something, nobody for a party that may not have the place."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.proxy.gate import room
from cloned_proxy.proxy.gate.siblings import Siblings
from cloned_proxy.proxy.transport.listener import Listener, bind_unix
from tests.proxy.gate.clients import (
    BEGUN,
    REFUSED,
    answer,
    client,
    connected,
    slow_client,
    somebody_waits,
    swept_until,
    tunnels,
)
from tests.proxy.plain.support import answering, request
from tests.proxy.support import HOST, World, allow, until, upstream, world

_LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
_KEPT = REFUSED.replace(b"Connection: close\r\n", b"")


async def sweep_several_times(w: World) -> None:
    for _ in range(3):
        w.gate.sweep()
        await asyncio.sleep(0)


async def test_who_still_receives_a_response_gets_all_of_it_and_then_a_fin() -> None:
    loop = asyncio.get_running_loop()
    async with upstream(answering(_LONG)) as server, world(allow(HOST, server.port), max_connections=2) as w:
        w.gate._room.quiet_seconds = 0
        with ExitStack() as stack:
            slow = stack.enter_context(socket.socket())
            slow.setblocking(False)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(slow, w.address)
            await loop.sock_sendall(slow, request(server.port))
            await until(lambda: len(w.audit.ends) == 1)  # the last byte of it is the kernel's
            begun = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(begun, BEGUN)
            asking = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(asking, REFUSED)
            await until(lambda: somebody_waits(w))
            await sweep_several_times(w)
            told = b""
            async with asyncio.timeout(60):
                while len(told) < len(_LONG):
                    piece = await loop.sock_recv(slow, 65_536)
                    assert piece
                    told += piece
            assert told.endswith(b"x" * 200_000)
            answering_other = asyncio.create_task(answer(asking))
            await swept_until(w, answering_other.done)
            assert answering_other.result() == b"HTTP/1.1 403"
            assert await answer(slow) == b""  # a reset would raise


async def test_who_has_asked_unseen_is_answered() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=2, keep_alive_timeout=60) as w:
        w.gate._room.quiet_seconds = 0
        with ExitStack() as stack:
            kept = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(kept, _KEPT)
            assert await answer(kept) == b"HTTP/1.1 403"
            begun = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(begun, BEGUN)
            await client(stack, socket.AF_INET, w.address)
            await until(lambda: somebody_waits(w))
            while True:  # the rest of the first answer
                try:
                    kept.recv(65_536)
                except BlockingIOError:
                    break
            kept.send(REFUSED)
            w.gate.sweep()  # before the loop has had a turn
            assert await answer(kept) == b"HTTP/1.1 403"


async def test_nobody_leaves_for_a_party_that_has_its_share(tmp_path: Path) -> None:
    path = tmp_path / "slot.sock"
    loop = asyncio.get_running_loop()
    async with world(max_connections=5, head_timeout=60) as w:
        slot = Listener(bind_unix(path), ANONYMOUS, "slot")
        await w.gate.open(slot)
        w.gate._room.quiet_seconds = 0
        w.gate._room.begun_seconds = 600
        with ExitStack() as stack:
            for _ in range(4):
                await loop.sock_sendall(await client(stack, socket.AF_INET, w.address), BEGUN)
            await until(lambda: len(w.gate._connections) == 4 == connected(w))
            await client(stack, socket.AF_INET, w.address)
            quiet = await client(stack, socket.AF_UNIX, str(path))
            await until(lambda: connected(w) == 5 and somebody_waits(w))
            await sweep_several_times(w)
            await loop.sock_sendall(quiet, REFUSED)
            assert await answer(quiet) == b"HTTP/1.1 403"


async def test_the_share_of_a_party_holds_beside_a_listener_with_proxy_headers(tmp_path: Path) -> None:
    path = tmp_path / "slot.sock"
    loop = asyncio.get_running_loop()
    async with world(max_connections=5, head_timeout=60, header_from=(ipaddress.ip_network("127.0.0.0/8"),)) as w:
        slot = Listener(bind_unix(path), ANONYMOUS, "slot")
        await w.gate.open(slot)
        with ExitStack() as stack:
            for _ in range(6):
                await loop.sock_sendall(await client(stack, socket.AF_UNIX, str(path)), BEGUN)
            await until(lambda: connected(w) >= 4 and somebody_waits(w, slot))
            other = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(other, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + REFUSED)
            assert await answer(other) == b"HTTP/1.1 403"
            assert connected(w) <= 5


async def test_heads_that_do_not_become_whole_leave_for_who_waits() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=4, head_timeout=600) as w:
        with ExitStack() as stack:
            begun = [await client(stack, socket.AF_INET, w.address) for _ in range(4)]
            for each in begun:
                await loop.sock_sendall(each, BEGUN)
            await until(lambda: len(w.gate._connections) == 4)
            w.gate._room.begun_seconds = 0
            await sweep_several_times(w)
            assert connected(w) == 4  # nobody waits
            asking = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(asking, REFUSED)
            answering_other = asyncio.create_task(answer(asking))
            await swept_until(w, answering_other.done)
            assert answering_other.result() == b"HTTP/1.1 403"


async def test_urgent_bytes_are_the_beginning_of_a_head_and_keep_no_place() -> None:
    """They are sent beside the stream, where no read shows them, and yet the kernel has just heard of the client."""
    loop = asyncio.get_running_loop()
    async with world(max_connections=2, head_timeout=600) as w:
        with ExitStack() as stack:
            keeping = [await client(stack, socket.AF_INET, w.address) for _ in range(2)]
            await until(lambda: connected(w) == 2)
            for each in keeping:
                each.send(b"!", socket.MSG_OOB)
            await until(lambda: [each.begun for each in w.gate._connections] == [True, True])
            w.gate._room.begun_seconds = 0
            asking = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(asking, REFUSED)
            answering_other = asyncio.create_task(answer(asking))
            await swept_until(w, answering_other.done)
            assert answering_other.result() == b"HTTP/1.1 403"


async def test_proxy_headers_that_do_not_become_whole_leave_for_who_waits() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=2, head_timeout=600, header_from=(ipaddress.ip_network("127.0.0.0/8"),)) as w:
        w.gate._room.begun_seconds = 0
        with ExitStack() as stack:
            for _ in range(2):
                await loop.sock_sendall(await client(stack, socket.AF_INET, w.address), b"PROXY ")
            await until(lambda: connected(w) == 2)
            asking = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(asking, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + REFUSED)
            answering_other = asyncio.create_task(answer(asking))
            await swept_until(w, answering_other.done)
            assert answering_other.result() == b"HTTP/1.1 403"


async def test_who_asks_for_nothing_makes_room_where_descriptors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(head_timeout=600) as w:
        w.gate.stop_accepting()  # who comes from here on waits with the kernel, as where nobody can be accepted
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener = Listener(listening, ANONYMOUS, "waits")
            await client(stack, socket.AF_INET, listening.getsockname())
            assert not somebody_waits(w, listener)

            def exhausted(_: int) -> int:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            monkeypatch.setattr(os, "dup", exhausted)
            assert somebody_waits(w, listener)


async def test_who_has_just_come_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_TURN_SECONDS", 3600.0)
    loop = asyncio.get_running_loop()
    # Over a Unix socket, where the kernel does not tell how long a client has been quiet.
    async with world(max_connections=2, head_timeout=600, unix=tmp_path / "own.sock") as w:
        w.gate._room.quiet_seconds = w.gate._room.begun_seconds = 600
        with ExitStack() as stack:
            quiet = await client(stack, socket.AF_UNIX, w.address)
            begun = await client(stack, socket.AF_UNIX, w.address)
            await loop.sock_sendall(begun, BEGUN)
            await until(lambda: connected(w) == 2)
            await client(stack, socket.AF_UNIX, w.address)
            await until(lambda: somebody_waits(w))
            await sweep_several_times(w)
            await loop.sock_sendall(quiet, REFUSED)
            assert await answer(quiet) == b"HTTP/1.1 403"
            await loop.sock_sendall(begun, b"Host: denied.example\r\nConnection: close\r\n\r\n")
            assert await answer(begun) == b"HTTP/1.1 403"


async def test_a_proxy_header_that_has_just_begun_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_TURN_SECONDS", 3600.0)
    loop = asyncio.get_running_loop()
    async with world(max_connections=1, head_timeout=600, header_from=(ipaddress.ip_network("127.0.0.0/8"),)) as w:
        w.gate._room.begun_seconds = 600
        with ExitStack() as stack:
            begun = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(begun, b"PROXY ")
            await client(stack, socket.AF_INET, w.address)
            await until(lambda: connected(w) == 1 and somebody_waits(w))
            await sweep_several_times(w)
            await loop.sock_sendall(begun, b"TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + REFUSED)
            assert await answer(begun) == b"HTTP/1.1 403"


async def test_no_proxy_header_leaves_for_a_party_that_has_its_share(tmp_path: Path) -> None:
    path = tmp_path / "slot.sock"
    loop = asyncio.get_running_loop()
    async with world(max_connections=5, head_timeout=600, header_from=(ipaddress.ip_network("127.0.0.0/8"),)) as w:
        slot = Listener(bind_unix(path), ANONYMOUS, "slot")
        await w.gate.open(slot)
        w.gate._room.begun_seconds = 0
        with ExitStack() as stack:
            begun = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(begun, b"PROXY ")
            await until(lambda: connected(w) == 1)
            for _ in range(4):
                await client(stack, socket.AF_UNIX, str(path))
            await until(lambda: connected(w) == 5)
            await client(stack, socket.AF_UNIX, str(path))
            await until(lambda: somebody_waits(w, slot))
            w.gate.sweep()
            await loop.sock_sendall(begun, b"TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + REFUSED)
            assert await answer(begun) == b"HTTP/1.1 403"


async def test_the_longest_quiet_leave_first() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=4, head_timeout=600) as w:
        w.gate._room.quiet_seconds = 0
        with ExitStack() as stack:
            idle = []
            for number in range(4):
                idle.append(await client(stack, socket.AF_INET, w.address))
                await until(lambda number=number: connected(w) == number + 1)  # type: ignore[misc]  # a default
                await asyncio.sleep(0.01)  # uvloop tells the time in milliseconds
            for each in idle:
                asking = await client(stack, socket.AF_INET, w.address)
                await loop.sock_sendall(asking, REFUSED)
                leaving = asyncio.create_task(answer(each))
                await swept_until(w, leaving.done)
                assert leaving.result() == b""
                assert await answer(asking) == b"HTTP/1.1 403"


async def test_who_waits_in_another_worker_gets_room_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(max_connections=1, head_timeout=600) as w:
        w.gate._room.quiet_seconds = 0
        with ExitStack() as stack:
            idle = await client(stack, socket.AF_INET, w.address)
            await until(lambda: connected(w) == 1)
            await sweep_several_times(w)
            assert connected(w) == 1
            monkeypatch.setattr(Siblings, "somebody_waits", True)
            leaving = asyncio.create_task(answer(idle))
            await swept_until(w, leaving.done)
            assert leaving.result() == b""


async def test_who_waits_here_is_told_to_the_other_workers_and_nobody_else() -> None:
    async with world(max_connections=1, head_timeout=600) as w:
        with ExitStack() as stack:
            await client(stack, socket.AF_INET, w.address)
            await until(lambda: connected(w) == 1)
            w.gate.sweep()
            assert not w.gate._siblings.somebody_waits
            await client(stack, socket.AF_INET, w.address)
            await until(lambda: somebody_waits(w))
            w.gate.sweep()
            assert w.gate._siblings.somebody_waits


async def test_a_listener_that_is_closed_wants_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = Listener(listening, ANONYMOUS, "closed")
    async with world() as w:
        assert not somebody_waits(w, closed)


async def test_who_takes_nothing_of_the_last_answer_leaves_for_who_waits() -> None:
    loop = asyncio.get_running_loop()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000  # so much is taken from an upstream
    async with upstream(answering(response)) as server, world(allow(HOST, server.port), max_connections=2) as w:
        w.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # and not all of it by the kernel
        with ExitStack() as stack:
            w.gate._room.stalled.seconds = 0
            held = [await slow_client(stack, w, server.port) for _ in range(2)]
            await until(lambda: len(w.audit.ends) == 2)
            await sweep_several_times(w)
            assert connected(w) == 2  # nobody waits
            asking = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(asking, REFUSED)
            answering_other = asyncio.create_task(answer(asking))
            await swept_until(w, answering_other.done)
            assert answering_other.result() == b"HTTP/1.1 403"
            told = [await to_the_end(each) for each in held]
            assert min(told) < len(response)


async def to_the_end(sock: socket.socket) -> int:
    """How many bytes still come."""
    count = 0
    try:
        async with asyncio.timeout(60):
            while piece := await asyncio.get_running_loop().sock_recv(sock, 65_536):
                count += len(piece)
    except ConnectionResetError:
        pass
    return count


async def test_a_tunnel_in_which_nothing_moves_stays() -> None:
    async with (
        upstream() as server,
        world(allow(HOST, server.port), max_connections=4, head_timeout=60) as w,
        tunnels(w, server.port, 1),
    ):
        w.gate._room.quiet_seconds = 0
        for _ in range(20):  # until the kernel of the client has acknowledged all, and longer
            assert list(w.gate._room._leaving(w.gate._connections, 0.0)) == []
            await asyncio.sleep(0.01)
