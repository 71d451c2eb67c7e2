"""Plain HTTP through the native plane: what is told of it in both gates, and what is its own.

`test_both_gates…` run once with each of them; canaries are bytes that a server got, or a client, behind a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane import seen as plane_seen
from cloned_proxy.telemetry.combined import FinishedDecision
from cloned_proxy.telemetry.events import DecisionEvent, FlowEnd
from tests.proxy.plain.support import client, read_message, reply, request
from tests.proxy.plane.broken_plane import GUARDS, OF_DESCRIPTORS, OF_MEMORY, OF_REFUSALS, broken
from tests.proxy.plane.plane_attacks import ATTACKS, Seen, played
from tests.proxy.support import HOST, SERVING, World, allow, need_plane, policy, until, upstream, world

__all__ = ["broken"]
_PATIENCE: Final = 60.0
_HANDED_OVER: Final = 2


def handed_over(w: World) -> int:
    """How many connections the plane has given to Python; 0 without one."""
    return 0 if w.plane is None else w.plane._told()[_HANDED_OVER]


# An exchange under way is reviewed by what it asks for.


def narrowed(port: int) -> Policy:
    """Looks at methods and paths, as nobody did before."""
    return policy(allow(HOST, port, methods=frozenset({"GET"}), paths=(parse_path_pattern("/kept/**"),)))


class Slow:
    """A server that answers /quick at once, and begins all else, which goes on when it is let go."""

    def __init__(self) -> None:
        self.began: dict[str, asyncio.Event] = {}
        self.go = asyncio.Event()
        self.bodies: dict[str, bytearray] = {}

    def reached(self, path: str) -> asyncio.Event:
        return self.began.setdefault(path, asyncio.Event())

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            if path.endswith("/quick"):
                writer.write(reply(b"quick"))
                continue
            body = self.bodies.setdefault(path, bytearray())
            if "/told" in path:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nbegins ")
            self.reached(path).set()
            if head.startswith("POST"):
                while data := await reader.read(65_536):
                    body += data
                return
            await self.go.wait()
            writer.write(b"and end" if "/told" in path else reply(b"late"))


@contextlib.asynccontextmanager
async def under_way(
    w: World, slow: Slow, port: int, *, first: str, then: bytes, path: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client whose second request is with the server; its first one asked for something else."""
    async with client(w) as (reader, writer):
        writer.write(request(port, first))
        assert (await read_message(reader)).body == b"quick"
        writer.write(then)
        await asyncio.wait_for(slow.reached(path).wait(), _PATIENCE)
        yield reader, writer


@pytest.mark.parametrize(
    ("first", "second", "passes"),
    [("/kept/quick", "/other/told", False), ("/other/quick", "/kept/told", True), ("/kept/quick", "/kept/told", True)],
)
async def test_both_gates_review_an_exchange_by_the_request_under_way(first: str, second: str, passes: bool) -> None:
    slow = Slow()
    async with upstream(slow) as server, world(allow(HOST, server.port)) as w:
        asked = request(server.port, second)
        async with under_way(w, slow, server.port, first=first, then=asked, path=second) as (reader, _):
            await reader.readuntil(b"begins ")
            assert handed_over(w) == 0
            assert [tunnel.grant.decision.request.path for tunnel in w.gate.tunnels] == [second]
            w.policies.current = narrowed(server.port)
            w.gate.sweep()
            slow.go.set()
            if passes:
                assert await asyncio.wait_for(reader.readexactly(7), _PATIENCE) == b"and end"
            else:
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(reader.read(), _PATIENCE)
        await w.settled()
    assert w.audit.ends[-1].cause == ("closed" if passes else "revoked:path_not_allowed")


async def test_both_gates_send_no_byte_of_a_body_on_when_its_method_is_denied_now() -> None:
    slow = Slow()
    async with upstream(slow) as server, world(allow(HOST, server.port)) as w:
        upload = request(server.port, "/kept/up", method="POST", headers="Content-Length: 100\r\n") + b"before"
        async with under_way(w, slow, server.port, first="/kept/quick", then=upload, path="/kept/up") as (
            reader,
            writer,
        ):
            await until(lambda: slow.bodies["/kept/up"] == b"before")
            assert handed_over(w) == 0
            w.policies.current = narrowed(server.port)
            w.gate.sweep()
            with contextlib.suppress(ConnectionError):
                writer.write(b"CANARY" * 10)
            told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
        await w.settled()
    assert told.startswith(b"HTTP/1.1 403 ")
    assert b"X-Cloned-Proxy-Reason: method_not_allowed" in told
    assert slow.bodies["/kept/up"] == b"before"
    assert w.audit.ends[-1].cause == "revoked:method_not_allowed"


@pytest.mark.parametrize(("path", "status"), [("/kept/silent", 200), ("/other/silent", 403)])
async def test_both_gates_tell_a_request_without_an_answer_yet_what_became_of_it(path: str, status: int) -> None:
    slow = Slow()
    first = "/other/quick" if status == 200 else "/kept/quick"
    async with upstream(slow) as server, world(allow(HOST, server.port)) as w:
        asked = request(server.port, path)
        async with under_way(w, slow, server.port, first=first, then=asked, path=path) as (reader, _):
            w.policies.current = narrowed(server.port)
            w.gate.sweep()
            slow.go.set()
            assert (await read_message(reader)).status == status
        await w.settled()


async def test_a_review_that_looks_at_the_first_request_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with the verdict's own request in the place of that under way what is denied goes on to its end."""
    need_plane()
    monkeypatch.setattr(plane_seen, "looks_at_requests", lambda *_: False)
    monkeypatch.setattr(SERVING, "native", True)
    slow = Slow()
    async with upstream(slow) as server, world(allow(HOST, server.port), known=False) as w:
        async with client(w) as (reader, writer):
            for _ in range(3):  # two are Python's, which publishes its verdict with the second
                writer.write(request(server.port, "/kept/quick"))
                assert (await read_message(reader)).body == b"quick"
            writer.write(request(server.port, "/other/told"))
            await reader.readuntil(b"begins ")
            w.policies.current = narrowed(server.port)
            w.gate.sweep()
            slow.go.set()
            assert await asyncio.wait_for(reader.readexactly(7), _PATIENCE) == b"and end"
        await w.settled()


# A request that is sent a second time, and goes to Python meanwhile.


@contextlib.asynccontextmanager
async def hesitating() -> AsyncIterator[tuple[socket.socket, Callable[[], socket.socket]]]:
    """A listening socket, and what fills its queue: until that is accepted nobody is connected."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, contextlib.ExitStack() as stack:
        listening.setblocking(False)

        def fill() -> socket.socket:
            return stack.enter_context(socket.create_connection(listening.getsockname()))

        yield listening, fill


def dialled(port: int) -> bool:
    """Whether a connection to that port is being made (proc_pid_net(5): state 2 is SYN-SENT)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


async def test_a_request_that_python_takes_over_before_its_second_try_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try has taken a part of its body, which the kept connection swallowed."""
    need_plane()
    monkeypatch.setattr(SERVING, "native", True)
    loop = asyncio.get_running_loop()

    async def message(sock: socket.socket, upto: bytes) -> bytes:
        data = b""
        while not data.endswith(upto):
            data += await asyncio.wait_for(loop.sock_recv(sock, 65_536), _PATIENCE)
        return data

    async with hesitating() as (listening, fill):
        port = listening.getsockname()[1]
        async with world(allow(HOST, port)) as w, client(w) as (reader, writer):
            writer.write(request(port))
            kept, _ = await loop.sock_accept(listening)
            await message(kept, b"\r\n\r\n")
            await loop.sock_sendall(kept, reply(b"first"))
            assert (await read_message(reader)).body == b"first"
            fill()
            writer.write(request(port, method="PUT", headers="Content-Length: 10\r\n") + b"begin")
            await message(kept, b"begin")
            kept.close()  # as a server that had given it up: the request may be sent again
            await until(lambda: dialled(port))
            allowed = w.policies.current
            w.policies.current = policy()
            w.gate.sweep()
            w.policies.current = allowed  # before anybody has been told of the change
            await until(lambda: handed_over(w) == 1)
            (await loop.sock_accept(listening))[0].close()
            writer.write(b"+rest")
            second, _ = await asyncio.wait_for(loop.sock_accept(listening), _PATIENCE)
            assert (await message(second, b"+rest")).endswith(b"\r\n\r\nbegin+rest")
            await loop.sock_sendall(second, reply(b"second"))
            assert (await read_message(reader)).body == b"second"
            second.close()


async def test_a_request_that_is_revoked_while_it_is_dialled_reaches_no_kept_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python takes it over from the plane and has a connection to that server at hand."""
    need_plane()
    monkeypatch.setattr(SERVING, "native", True)
    loop = asyncio.get_running_loop()
    async with hesitating() as (listening, fill):
        port = listening.getsockname()[1]
        async with world(allow(HOST, port)) as w, client(w) as (reader, writer):
            # A byte that the plane leaves to Python, whose connection is kept then.
            writer.write(request(port, "/kept/first").replace(b"\r\n\r\n", b"\r\nX-Text: \xe9\r\n\r\n"))
            kept, _ = await loop.sock_accept(listening)
            assert (await asyncio.wait_for(loop.sock_recv(kept, 65_536), _PATIENCE)).startswith(b"GET /kept/first ")
            await loop.sock_sendall(kept, reply(b"first"))
            assert (await read_message(reader)).body == b"first"
            before = handed_over(w)
            fill()
            async with client(w) as (second_reader, second_writer):
                second_writer.write(request(port, "/CANARY"))
                await until(lambda: dialled(port))
                w.policies.current = narrowed(port)
                w.gate.sweep()
                assert (await read_message(second_reader)).status == 403
            assert handed_over(w) == before + 1
            with pytest.raises(BlockingIOError):
                kept.recv(65_536)
            kept.close()


async def test_both_gates_say_that_a_response_head_is_too_long_where_the_longest_may_be_very_long() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"x" * 9000 + b"\r\n") * 120)  # and no end of it
        await reader.read()

    async with (
        upstream(serve) as server,
        world(allow(HOST, server.port), max_head_bytes=1 << 20) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port, headers=f"x: {'y' * 40_000}\r\n"))
        assert (await read_message(reader)).status == 502
        writer.close()
        await w.settled()
    assert w.audit.ends[-1].cause == "upstream_error:response"


async def test_both_gates_cut_a_request_that_is_malformed_behind_the_begin_of_its_response() -> None:
    """A second head would be read as a part of the body that the first one has announced."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nbegins ")
        await reader.read()

    async with upstream(early) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            writer.write(request(server.port, method="POST", headers="Transfer-Encoding: chunked\r\n"))
            await reader.readuntil(b"begins ")
            writer.write(b"not a size\r\n")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.readexactly(1), _PATIENCE)
        await w.settled()
        assert handed_over(w) == 0
    assert w.audit.ends[-1].cause == "refused:malformed_request"


# What two readers could read differently.


@pytest.mark.parametrize("name", ATTACKS)
async def test_both_gates_hold_off(name: str) -> None:
    seen, _ = await played(ATTACKS[name])
    assert ATTACKS[name].safe(seen), seen


@pytest.mark.parametrize("name", ATTACKS)
async def test_the_plane_is_no_different(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same bytes at both ends, same verdicts and same ends on record."""
    need_plane()
    of_python = Seen.comparable(*await played(ATTACKS[name]))
    monkeypatch.setattr(SERVING, "native", True)
    assert Seen.comparable(*await played(ATTACKS[name])) == of_python


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_plane_without_its_guard_does_not(
    name: str, broken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same build holds the attack off with all guards in their places, and lets it through without one."""
    attack = ATTACKS[name]
    monkeypatch.setattr(SERVING, "native", True)
    for out, safe in (("", True), (attack.guard, False)):
        path = broken(out)
        monkeypatch.setattr(library, "find", lambda path=path: path)
        seen, _ = await played(attack)
        assert attack.safe(seen) is safe, seen


def test_each_guard_has_its_attack() -> None:
    assert {attack.guard for attack in ATTACKS.values()} == set(GUARDS) - {*OF_REFUSALS, *OF_MEMORY, *OF_DESCRIPTORS}


async def test_a_plain_exchange_that_was_whole_is_one_entry_and_one_that_was_cut_is_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_plane()
    monkeypatch.setattr(SERVING, "native", True)
    slow = Slow()
    async with upstream(slow) as server, world(allow(HOST, server.port)) as w:
        before = len(w.audit.events)
        async with client(w) as (reader, writer):
            for _ in range(3):
                writer.write(request(server.port, "/kept/quick"))
                assert (await read_message(reader)).body == b"quick"
            writer.write(request(server.port, "/kept/told"))
            await reader.readuntil(b"begins ")
            writer.transport.abort()
            await w.settled()
        assert handed_over(w) == 0
        events = w.audit.events[before:]
    assert [type(event) for event in events] == [*[FinishedDecision] * 3, DecisionEvent, FlowEnd]
    assert [each.bytes_down > 0 for each in events if isinstance(each, FinishedDecision)] == [True] * 3
