"""What the native plane keeps of those who are gone or quiet, and for how long it waits for the log.

Memory is what the C library says is in use, of this process and with the threads of the plane in it: exact, where
resident memory depends on the allocator's mood.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from contextlib import AsyncExitStack
from typing import Final

import pytest

from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.wire.head import parse_head
from cloned_proxy.telemetry.wait_metrics import WaitReason
from tests.proxy.plain.support import client, read_message, reply, request
from tests.proxy.support import HOST, SERVING, World, allow, seconds_waited, until, upstream, world

pytestmark = pytest.mark.usefixtures("native")

_MIB: Final = 1 << 20


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc, since 2.33; sizes in bytes."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def in_use() -> int:
    """Bytes that this process has allocated and not freed, in all arenas. Python's small objects are not among them."""
    c_library = ctypes.CDLL(None)
    if not hasattr(c_library, "mallinfo2"):
        pytest.skip("the C library does not say what is in use: needs glibc 2.33")
    c_library.mallinfo2.restype = _MallInfo
    gc.collect()
    said = c_library.mallinfo2()
    return int(said.uordblks + said.hblkhd)


async def _answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        if b"Content-Length: " in head:
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
        writer.write(reply())


async def test_verdicts_that_are_over_leave_the_memory_of_the_plane() -> None:
    paths = ["/" + f"{number}-".ljust(1000, "x") for number in range(2000)]
    rule = allow(HOST, 80, paths=(parse_path_pattern("/**"),))
    async with world(rule) as w:
        current = w.policies.current
        assert current is not None
        assert w.plane is not None
        caller = w.listener.principal
        assert caller is not None
        before = in_use()
        for path in paths:
            w._publish(current, caller, parse_head(request(80, path)), Request(HOST, 80, "GET", path))
        published = [each for each in w.plane._verdicts.known.values() if len(each.key) > len(paths[0])]
        assert len(published) == len(paths)
        grown = in_use() - before
        assert grown > 4 * _MIB
        for each in published:
            each.expires = 0.0  # as if it were so late; one by one, and no new policy
        del each, published, path, paths
        w.gate.sweep()
        # The key in each thread's table is half of it; what Python remembers of so many paths is a quarter.
        await until(lambda: in_use() - before < grown // 2)


async def test_clients_that_wait_hold_no_memory_of_what_they_asked() -> None:
    clients = 200
    body = b"x" * 40_000
    async with upstream(_answering) as server, world(allow(HOST, server.port)) as w, AsyncExitStack() as stack:
        asking = [await stack.enter_async_context(client(w)) for _ in range(clients)]

        async def ask(body: bytes) -> None:
            for reader, writer in asking:
                writer.write(request(server.port, method="POST", body=body))
                assert (await read_message(reader)).body == b"ok"

        await ask(b"x")
        assert w.audit.events
        before = in_use()
        await ask(body)
        held = (in_use() - before) / clients
        assert held < 10_000, f"{held:.0f} bytes for each client whose last request had {len(body)}"
        assert w.plane is not None
        assert w.plane._told()[2] == 0  # none of them was Python's


async def test_a_head_that_waits_for_the_log_is_not_late() -> None:
    """Its bytes are read already: they came behind a request that was granted before the log fell behind."""
    SERVING.queue = 10
    asked, seconds = 4, 0.2
    async with upstream(_answering) as server:
        limits = {"head_timeout": seconds, "keep_alive_timeout": seconds}
        async with world(allow(HOST, server.port), settings=limits) as w, AsyncExitStack() as stack:
            asking = [await stack.enter_async_context(client(w)) for _ in range(10)]
            for _, writer in asking:
                writer.write(request(server.port) * asked)
            assert w.plane is not None
            granted_before = 0
            quiet_since = time.monotonic()
            while time.monotonic() < quiet_since + 4 * seconds:  # for so long nothing moves
                await asyncio.sleep(0.01)
                if (granted := _granted(w)) != granted_before:
                    granted_before, quiet_since = granted, time.monotonic()
            assert 10 < granted_before < asked * len(asking)
            answers = asyncio.gather(*(_all_of(reader, asked) for reader, _ in asking))
            async with asyncio.timeout(60):
                while not answers.done():
                    assert w.audit.events is not None  # the log takes what waits
                    await asyncio.sleep(0.01)
            assert await answers == [asked] * len(asking)
            w.plane.sweep()  # tells the metrics
            assert seconds_waited(w, WaitReason.AUDIT_QUEUE) > 0


async def _all_of(reader: asyncio.StreamReader, count: int) -> int:
    return sum([(await read_message(reader)).body == b"ok" for _ in range(count)])


def _granted(w: World) -> int:
    assert w.plane is not None
    verdicts = w.plane._verdicts
    return sum(verdicts.counts(each)[0][0] for each in verdicts.known.values())


async def test_who_does_not_take_its_response_has_no_time_of_the_log() -> None:
    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(reply(b"x" * 16_384))
            await writer.drain()

    limits = {"head_timeout": 0.3, "keep_alive_timeout": 0.3}
    async with upstream(much) as server, world(allow(HOST, server.port), settings=limits) as w, client(w) as asking:
        asking[1].transport.pause_reading()  # type: ignore[attr-defined]  # one for both ways
        asking[1].write(request(server.port) * 600)
        await until(lambda: _granted(w) > 0)
        assert w.plane is not None
        await w.settled()
