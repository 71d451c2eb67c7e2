"""What only the native plane has: its verdicts, what it counts beside Python, its back-pressure, its end by a fault.

That it does what the gate does is for the suites of the gate, which run with it and without (`conftest.py`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.proxy.plane import library
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import DecisionEvent, FlowEnd
from tests.free_port import free_port
from tests.proxy.plane.looks import granted, plane_of, tunnel
from tests.proxy.support import (
    HOST,
    SERVER_HELLO,
    SERVING,
    NoEntries,
    allow,
    connect_head,
    echo,
    hello,
    until,
    upstream,
    world,
)

pytestmark = pytest.mark.usefixtures("native")


RAW: Final = {"raw_tcp": True}


async def test_what_python_has_granted_twice_is_granted_natively_with_an_entry_for_each() -> None:
    async with upstream() as server, world(allow(HOST, server.port), known=False) as w:
        for _ in range(4):
            async with tunnel(w, server.port):
                pass
        await w.settled()
        assert granted(w) == 2
        decisions = [event for event in w.audit.events if isinstance(event, DecisionEvent)]
        assert len({event.id for event in decisions}) == len(w.audit.ends) == 4
        assert len({(event.rule, event.policy, event.host, event.port, event.kind) for event in decisions}) == 1


@pytest.mark.parametrize("threads", [1, 3])
async def test_bulk_goes_both_ways_at_once_and_every_byte_arrives(threads: int) -> None:
    SERVING.threads = threads
    data = random.Random(7).randbytes(12_000_000)
    async with upstream() as server, world(allow(HOST, server.port, **RAW)) as w:

        async def send(writer: asyncio.StreamWriter) -> None:
            for at in range(0, len(data), 300_000):
                writer.write(data[at : at + 300_000])
                await writer.drain()
            writer.write_eof()

        async def one() -> None:
            reader, writer = await w.tunnel(server.port, first=b"")
            sending = asyncio.ensure_future(send(writer))
            assert await reader.read(-1) == data
            await sending
            writer.close()

        await asyncio.gather(*(one() for _ in range(3)))
        await w.settled()
        assert [(end.cause, end.bytes_up, end.bytes_down) for end in w.audit.ends] == 3 * [
            ("closed", len(data), len(data))
        ]
        assert granted(w) == 3


async def test_of_several_addresses_the_one_that_answers_is_taken() -> None:
    addresses = tuple(ipaddress.ip_address(text) for text in ("::1", "127.0.0.2", "127.0.0.1"))
    async with upstream() as server, world(allow(HOST, server.port), addresses=addresses) as w:
        async with tunnel(w, server.port):
            assert w.metrics.connects == 1
        assert granted(w) == 1


@pytest.mark.parametrize("host", [HOST, "::1"], ids=["by its name", "as a literal"])
async def test_an_ipv6_address_is_dialled_natively(host: str) -> None:
    server = await asyncio.start_server(echo, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, world(allow(host, port, **RAW), addresses=(ipaddress.ip_address("::1"),)) as w:
        reader, writer = await w.tunnel(port, host=host if host is HOST else f"[{host}]", first=b"said")
        assert await reader.readexactly(4) == b"said"
        writer.close()
        await w.settled()
        assert granted(w) == 1


async def test_an_upstream_that_refuses_is_a_502_by_python() -> None:
    port = free_port()
    async with world(allow(HOST, port)) as w:
        reply = await w.ask(connect_head(port))
        assert (reply.status, reply.json["phase"]) == (502, "connect")
        await w.settled()
        assert (granted(w), [end.cause for end in w.audit.ends]) == (1, ["upstream_error:connect"])
        assert reply.json["decision_id"] == w.audit.ends[0].decision


async def test_a_slow_log_delays_heads_and_refuses_none() -> None:
    SERVING.queue = 10
    async with upstream() as server, world(allow(HOST, server.port, **RAW)) as w:
        clients = [await w.connect() for _ in range(30)]
        for _, writer in clients:
            writer.write(connect_head(server.port))
        await until(lambda: granted(w) > 10)
        await asyncio.sleep(0.2)
        assert granted(w) < 30  # the rest waits for the log
        taken = 0
        answered = asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in clients))
        while not answered.done():
            taken = len(w.audit.events)
            await asyncio.sleep(0.01)
        assert taken
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await answered)
        for _, writer in clients:
            writer.transport.abort()
        await w.settled()
        assert w.audit.verdicts == [("allow", "allowed")] * 30
        assert len(w.audit.ends) == 30


async def test_heads_that_wait_for_a_log_are_refused_when_it_fails() -> None:
    SERVING.queue = 10
    async with upstream() as server, world(allow(HOST, server.port, **RAW)) as w:
        clients = [await w.connect() for _ in range(30)]
        for _, writer in clients:
            writer.write(connect_head(server.port))
        await until(lambda: granted(w) > 10)
        w.audit.broken = True
        async with asyncio.timeout(60):
            answers = [await reader.readuntil(b"\r\n\r\n") for reader, _ in clients]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
        assert len(refused) == 30 - granted(w) > 0
        for _, writer in clients:
            writer.transport.abort()
        await w.settled()


async def test_open_tunnels_are_shown_and_cut_one_by_one() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        async with tunnel(w, server.port) as (first, _), tunnel(w, server.port):
            shown = sorted(w.gate.tunnels, key=lambda each: each.grant.since)
            assert len(shown) == len(w.gate.tunnels) == 2
            assert shown[0].grant.charge.bytes_up == len(hello())
            shown[0].cut_off("cut by a person, é")
            with pytest.raises(ConnectionError):
                await first.readexactly(1)
            assert len(w.gate.tunnels) == 1
        await w.settled()
        assert w.audit.ends[0].cause == "cut by a person, é"


async def test_a_fault_closes_its_tunnels_and_python_serves_on() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        async with tunnel(w, server.port) as (reader, _):
            plane_of(w).panic()
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            await until(lambda: plane_of(w).failed and len(w.gate._doors) == 1)
        async with tunnel(w, server.port):
            assert len(w.gate._connections) == 1
        await w.settled()
        assert w.metrics.failures == 1
        assert w.audit.ends[0].cause == "internal_error"
        assert w.audit.verdicts == [("allow", "allowed")] * 2


async def test_entries_of_both_are_one_chain_and_a_log_that_fails_suspends_the_plane(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        writer = AuditWriter(path)
        writer.join(plane_of(w).entries)
        w.audit.join(NoEntries())
        for _ in range(5):
            async with tunnel(w, server.port):
                pass
        await w.settled()
        writer.record(FlowEnd("python", time.time(), None, 0, 0, 0.0, "closed"))
        moved = path.rename(tmp_path / "elsewhere")
        path.touch()  # another file in its place: the writer must not go on unseen
        writer.record(FlowEnd("python", time.time(), None, 0, 0, 0.0, "closed"))
        await until(lambda: not writer.healthy)
        before = granted(w)
        async with tunnel(w, server.port):  # the fake log of the world takes what Python does
            assert granted(w) == before
        moved.rename(path)
        await until(lambda: writer.healthy)
        async with tunnel(w, server.port):
            assert granted(w) == before + 1
        await w.settled()
        await asyncio.to_thread(writer.close)
    with AuditLog(path) as log:
        report = log.verify()
        kinds = [entry.body["type"] for entry in log.entries(types=("decision", "flow_end"))]
    assert report.holds
    assert (kinds.count("decision"), kinds.count("flow_end")) == (6, 8)


def test_the_library_is_of_this_program() -> None:
    path = library.find()
    assert path is not None
    assert library.load(path).plane_reads_answer(SERVER_HELLO, len(SERVER_HELLO))
