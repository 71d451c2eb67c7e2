"""What only the native plane has: its verdicts, what it counts beside Python, its back-pressure, its end by a fault.

That it does what the gate does is for the suites of the gate, which run with it and without (`conftest.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.policy.callers.caller import IdentityRefusal, Principal
from cloned_proxy.policy.callers.identity import Claims, OwnTokens, identify, mint_token
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Limits, Policy
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane.forms import key_of
from cloned_proxy.proxy.plane.parties import PARTIES
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.plane.verdicts import Published
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.wire.head import parse_head
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import DecisionEvent, FlowEnd, Kind
from tests.free_port import free_port
from tests.proxy.support import (
    HOST,
    KEY,
    LOOPBACK,
    SERVER_HELLO,
    SERVING,
    NoEntries,
    World,
    allow,
    connect_head,
    hello,
    need_plane,
    policy,
    until,
    upstream,
    world,
)

RAW: Final = {"raw_tcp": True}
DEMO: Final = Principal("demo@v1")
_HANDED_OVER: Final = 2


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    need_plane()
    SERVING.native = True
    yield
    SERVING.native, SERVING.threads, SERVING.queue = False, 1, 10_000


def plane_of(w: World) -> Plane:
    assert w.plane is not None
    return w.plane


def published(w: World) -> list[Published]:
    return list(plane_of(w)._verdicts.known.values())


def granted(w: World) -> int:
    """How many requests the plane has granted by itself."""
    verdicts = plane_of(w)._verdicts
    return sum(verdicts.counts(each)[0][0] for each in published(w))


@contextlib.asynccontextmanager
async def tunnel(w: World, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await w.tunnel(port)
    await reader.readexactly(len(hello()))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


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


async def test_bytes_that_pass_natively_count_against_the_limit_and_cut() -> None:
    async with upstream() as server:
        limited = policy(allow(HOST, server.port), limits=Limits(bytes_per_hour=1_000_000))
        async with world(current=limited, principal=DEMO) as w, tunnel(w, server.port) as (reader, writer):
            w.gate.sweep()
            assert w.audit.ends == []
            writer.write(b"x" * 600_000)
            await reader.readexactly(600_000)
            w.gate.sweep()
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            await w.settled()
            assert [end.cause for end in w.audit.ends] == ["revoked:limit_exceeded"]


@pytest.mark.parametrize("limits", [Limits(concurrent=2), Limits(requests_per_minute=2)])
async def test_both_sides_count_together(limits: Limits) -> None:
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=limits)
        async with world(current=current, principal=DEMO) as w, tunnel(w, server.port):
            # Python reads this head, which the plane does not.
            _, writer = await w.connect()
            writer.write(connect_head(server.port).replace(b"Host", b"TE: trailers\r\nHost"))
            await until(lambda: len(w.audit.verdicts) == 2)
            reply = await w.ask(connect_head(server.port))
            assert (reply.status, reply.json["reason"]) == (429, "limit_exceeded")
            writer.transport.abort()
        assert granted(w) == 1


async def test_a_limit_larger_than_the_plane_can_count_is_no_small_one() -> None:
    limits = Limits(concurrent=2**64, requests_per_minute=2**64 + 1, bytes_per_hour=2**65)
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=limits)
        async with world(current=current, principal=DEMO) as w, tunnel(w, server.port):
            assert granted(w) == 1


async def test_the_cap_of_connections_holds_over_both() -> None:
    async with upstream() as server, world(allow(HOST, server.port), settings={"max_connections": 2}) as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        _, python = await w.connect()
        python.write(b"CONNECT ")
        await until(lambda: len(w.gate._connections) == 1)
        waiting = asyncio.create_task(w.tunnel(server.port))
        await until(lambda: w.gate._room.is_wanted(w.listener, contended=False))
        assert not waiting.done()
        python.transport.abort()
        (await waiting)[1].transport.abort()
        assert granted(w) == 2
        writer.transport.abort()


async def test_a_listener_that_closes_takes_what_it_hands_over_from_its_own_party() -> None:
    async with world() as w:
        plane = plane_of(w)
        own = Listener(bind_tcp("127.0.0.1", 0), DEMO, "slot")
        with contextlib.closing(own.socket), contextlib.ExitStack() as clients:
            await w.gate.open(own)
            deadline = time.monotonic() + 60
            for _ in range(5):
                client = clients.enter_context(socket.create_connection(own.socket.getsockname()))
                client.sendall(b"X / HTTP/1.1\r\n\r\n")  # Python's to answer
            # The loop stands still meanwhile: all of them wait for it when the listener closes.
            while plane._told()[_HANDED_OVER] < 5:
                assert time.monotonic() < deadline
                time.sleep(0.001)  # noqa: ASYNC251  see above
            w.gate.close(own)
        await w.settled()
        assert not any(plane.cells.open("parties", PARTIES).values)


async def test_a_connection_on_its_way_from_the_plane_has_a_place_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(settings={"max_connections": 1}) as w:
        plane = plane_of(w)
        own = w.gate._cap._cells
        held: list[list[int]] = []
        given_up = plane._library.plane_adopted

        def adopted(*arguments: object) -> None:
            held.append(list(own.column(0)))
            given_up(*arguments)

        monkeypatch.setattr(plane._library, "plane_adopted", adopted)
        _, writer = await w.connect()
        writer.write(b"CONNECT ")
        await until(lambda: len(w.gate._connections) == 1)
        assert held == [[1, 1]]  # ours, and that of the plane, which gives it up behind this
        assert list(own.column(0)) == [1, 0]
        writer.transport.abort()
        await w.settled()


async def test_of_several_addresses_the_one_that_answers_is_taken() -> None:
    addresses = tuple(ipaddress.ip_address(text) for text in ("::1", "127.0.0.2", "127.0.0.1"))
    async with upstream() as server, world(allow(HOST, server.port), addresses=addresses) as w:
        async with tunnel(w, server.port):
            assert w.metrics.connects == 1
        assert granted(w) == 1


@pytest.mark.parametrize("more", [{"only_ssh": True}, {"max_uses": 5}, {"inject": None, "methods": frozenset({"GET"})}])
async def test_what_needs_another_look_each_time_is_never_published(more: dict[str, object]) -> None:
    async with upstream() as server, world(allow(HOST, server.port, **more)) as w:
        for _ in range(2):
            _, writer = await w.connect()
            writer.write(connect_head(server.port))
            await until(lambda: len(w.audit.verdicts) > 0)
            writer.transport.abort()
        assert [each for each in published(w) if each.grant.kind is not Kind.HTTP] == []


async def test_an_upstream_that_refuses_is_a_502_by_python() -> None:
    port = free_port()
    async with world(allow(HOST, port)) as w:
        reply = await w.ask(connect_head(port))
        assert (reply.status, reply.json["phase"]) == (502, "connect")
        await w.settled()
        assert (granted(w), [end.cause for end in w.audit.ends]) == (1, ["upstream_error:connect"])
        assert reply.json["decision_id"] == w.audit.ends[0].decision


async def test_a_verdict_ends_with_its_credential() -> None:
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=Limits(concurrent=100))
        async with world(current=current) as w:
            token = mint_token(KEY, Claims("demo@v1", "run", time.time() + 2.5))
            field = f"X-Cloned-Tool-Token: {token}\r\n"
            ended = time.monotonic() + 2.5
            for _ in range(3):
                _, writer = await w.tunnel(server.port, headers=field)
                writer.transport.abort()
            assert granted(w) == 1
            await asyncio.sleep(ended - time.monotonic())
            reply = await w.ask(connect_head(server.port, headers=field))
            assert (reply.status, reply.json["reason"]) == (407, "identity_expired")
            assert granted(w) == 1


async def test_a_listener_that_opens_ends_the_verdicts_that_would_dial_it() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        async with tunnel(w, server.port):
            assert granted(w) == 1
            w.own.add_address("127.0.0.1", server.port)
            w.gate.sweep()
            assert (await w.ask(connect_head(server.port))).json["reason"] == "address_not_allowed"
        await w.settled()
        assert w.audit.ends[0].cause == "revoked:address_not_allowed"


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


@pytest.mark.parametrize("seed", range(6))
async def test_each_verdict_equals_a_fresh_decision_whatever_changes(seed: int) -> None:
    rng = random.Random(seed)
    tokens = [mint_token(KEY, Claims(tool, "run", time.time() + 3600)) for tool in ("demo@v1", "other@v1")]
    headers = ["", *(f"X-Cloned-Tool-Token: {token}\r\n" for token in tokens)]

    def any_policy(port: int) -> Policy:
        rules = [allow(HOST, port, id=f"r-{rng.randrange(3)}", expires=rng.choice([None, time.time() + 0.2]))]
        return policy(*rules[: rng.randrange(2)], limits=rng.choice([None, Limits(concurrent=50)]))

    async with upstream() as server, world(allow(HOST, server.port)) as w:
        for _ in range(60):
            match rng.randrange(6):
                case 0:
                    w.policies.current = any_policy(server.port)
                case 1:
                    w.enforcer._leases.ended = frozenset({f"r-{rng.randrange(3)}"})  # type: ignore[misc]
                case 2:
                    w.resolver.table[HOST] = (LOOPBACK, ipaddress.ip_address(f"127.0.0.{rng.randrange(1, 4)}"))
                case 3:
                    w.own.add_address("127.0.0.3", rng.choice([server.port, 1]))
                case 4:
                    await asyncio.sleep(0.02)
                case _:
                    reply_to = connect_head(server.port, headers=rng.choice(headers))
                    _, writer = await w.connect()
                    writer.write(reply_to)
                    await asyncio.sleep(0.01)
                    writer.transport.abort()
            w.gate.sweep()
            for each in published(w):
                if each.live and time.monotonic() < each.expires:
                    assert_as_decided_now(w, each)


def assert_as_decided_now(w: World, verdict: Published) -> None:
    grant = verdict.grant
    assert not isinstance(grant.caller, IdentityRefusal)
    leases = w.enforcer.basis.leases
    now = decide(
        w.policies.current, grant.caller, grant.decision.request, time.time(), leases.spent, ended=leases.ended
    )
    now = decide_addresses(now, grant.addresses, w.own)
    assert now == grant.decision
    assert verdict.event.policy == (w.policies.current.version if w.policies.current else "")


def test_the_key_of_a_head_is_all_that_identity_looks_at() -> None:
    plain = parse_head(connect_head(443))
    token = mint_token(KEY, Claims("demo@v1", "run", time.time() + 60))
    named = parse_head(connect_head(443, headers=f"X-Cloned-Tool-Token: {token}\r\n"))
    assert identify(plain.fields, tokens=OwnTokens(KEY), now=time.time(), listener=DEMO) == DEMO
    other = parse_head(connect_head(443, headers=f"Proxy-Authorization: {token}\r\n"))
    assert len({key_of(1, plain), key_of(2, plain), key_of(1, named), key_of(1, other)}) == 4


def test_the_library_is_of_this_program() -> None:
    path = library.find()
    assert path is not None
    assert library.load(path).plane_reads_answer(SERVER_HELLO, len(SERVER_HELLO))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Rule, ("id scope denies pattern ports methods paths exceptions raw_tcp only_ssh addresses expires max_uses "
                "idle inject registry reason origin preset")),
        (Limits, "concurrent requests_per_minute bytes_per_hour denials_per_minute"),
        (Listener, "socket principal name names only_names header_from"),
        (Principal, "tool run source source_address"),
    ],
)  # fmt: skip
def test_whatever_a_decision_depends_on_is_thought_of(kind: type, fields: str) -> None:
    """Who adds a field asks `verdicts.publishable` whether a grant that depends on it may be given again natively."""
    assert [field.name for field in dataclasses.fields(kind)] == fields.split()
