"""The serving side of slots: who may speak, which descriptors are taken, and that a slot ends with its connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cloned_proxy.local.slot_protocol import Handover, OpenSlot, RunEnd, encode
from cloned_proxy.local.unix_sockets import new_socket, short_path
from cloned_proxy.policy.callers.caller import CallerSource
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.slots.slot_api import SlotApi
from cloned_proxy.proxy.transport import private_socket
from cloned_proxy.proxy.transport.listener import BindError, Listener
from cloned_proxy.telemetry.events import RunEvent


class FakeGate:
    """Notes what is opened and closed; closing closes the socket, as the gate does."""

    def __init__(self) -> None:
        self.opened: list[Listener] = []

    async def open(self, listener: Listener) -> None:
        self.opened.append(listener)

    def close(self, listener: Listener) -> None:
        self.opened.remove(listener)
        listener.socket.close()


class Setup:
    def __init__(self, path: Path) -> None:
        self.gate = FakeGate()
        self.runs: list[RunEvent] = []
        self.path = path
        self.api = SlotApi(
            gate=cast("Gate", self.gate),
            path=path,
            on_run=self.runs.append,
            clock=lambda: 1000.0,
            ca_for=lambda tool: "PEM" if tool == "inspected@v1" else None,
            address=lambda: "127.0.0.1:1234",
        )

    def connect(self) -> socket.socket:
        sock = new_socket()
        sock.settimeout(60)
        with short_path(self.path) as name:
            sock.connect(name)
        return sock

    async def ask(self, sock: socket.socket, data: bytes, *given: socket.socket) -> dict[str, Any] | None:
        def exchange() -> bytes:
            with contextlib.suppress(ConnectionError):
                socket.send_fds(sock, [data], [each.fileno() for each in given])
                return sock.recv(100_000)
            return b""

        reply = await asyncio.to_thread(exchange)
        return json.loads(reply) if reply else None

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.gate.opened) != count:  # noqa: ASYNC110  the other side is not ours to signal
                await asyncio.sleep(0.01)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path / "run" / "slots.sock")
    made.api.start()
    yield made
    await made.api.close()


def opening(*handovers: Handover, tool: str = "demo.tool@v1") -> bytes:
    return OpenSlot(tool, "cafe", handovers or (Handover(8081),)).encode()


def listening(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0))


async def test_the_socket_is_the_users_own(setup: Setup) -> None:
    assert stat.S_IMODE(setup.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(setup.path.parent.stat().st_mode) == 0o700


async def test_a_slot_is_a_listener_with_the_tools_principal(setup: Setup) -> None:
    with setup.connect() as sock, listening() as given:
        assert await setup.ask(sock, opening(), given) == {"v": 2, "ok": True, "ca": None}
        (listener,) = setup.gate.opened
        assert listener.principal is not None
        assert (listener.principal.tool, listener.principal.run) == ("demo.tool@v1", "cafe")
        assert listener.principal.source is CallerSource.LISTENER
        assert listener.socket.getsockname() == given.getsockname()


async def test_it_ends_with_its_connection_however_that_ends(setup: Setup) -> None:
    with listening() as given:
        sock = setup.connect()
        await setup.ask(sock, opening(), given)
        sock.close()
        await setup.settled(0)


async def test_close_answers_with_eof_when_the_listener_is_closed(setup: Setup) -> None:
    with setup.connect() as sock, listening() as given:
        await setup.ask(sock, opening(), given)
        assert await setup.ask(sock, encode(op="close")) is None
        assert setup.gate.opened == []


async def test_the_workspaces_ca_is_handed_out_where_a_rule_opens_tls(setup: Setup) -> None:
    with setup.connect() as sock, listening() as given:
        reply = await setup.ask(sock, opening(tool="inspected@v1"), given)
    assert reply is not None
    assert reply["ca"] == "PEM"


COMMAND = "curl --token=hunter2 https://example.com/"
RECORDED = "curl --token=[redacted] https://example.com/"
ENDED = RunEnd("ok", 1.5, 0.25, "")


@pytest.mark.parametrize(
    ("end", "result", "reason"),
    [
        (ENDED, "ok", ""),
        (RunEnd("timeout", 1.5, 0.25, "too slow"), "timeout", "too slow"),
        (RunEnd("made up", 1.5, 0.25, "x" * 9000), "error", "x" * 500),
    ],
)
async def test_the_end_of_a_run_goes_on_record_once(setup: Setup, end: RunEnd, result: str, reason: str) -> None:
    with setup.connect() as sock, listening() as given:
        await setup.ask(sock, OpenSlot("demo.tool@v1", "dry-cafe", (Handover(8081),), COMMAND).encode(), given)
        await setup.ask(sock, end.encode("done"))
        assert (await setup.ask(sock, end.encode("done")) or {})["ok"] is False
    await setup.settled(0)
    assert setup.runs == [RunEvent(1000.0, "demo.tool@v1", "dry-cafe", result, 1.5, 0.25, True, reason, RECORDED)]


async def test_a_run_without_a_slot_goes_on_record_too(setup: Setup) -> None:
    with setup.connect() as sock:
        await setup.ask(sock, ENDED.encode("ran", tool="demo.tool@v1", run="cafe"))
        for refused in (ENDED.encode("ran", tool="demo.tool@v1"), ENDED.encode("done"), encode(op="ran", result="ok")):
            assert (await setup.ask(sock, refused) or {})["ok"] is False
    assert setup.runs == [RunEvent(1000.0, "demo.tool@v1", "cafe", "ok", 1.5, 0.25, False, "")]


async def test_a_runner_that_goes_away_leaves_its_run_on_record(setup: Setup) -> None:
    with setup.connect() as sock, listening() as given:
        await setup.ask(sock, opening(), given)
    await setup.settled(0)
    ((tool, run, result),) = [(event.tool, event.run, event.result) for event in setup.runs]
    assert (tool, run, result) == ("demo.tool@v1", "cafe", "abandoned")


async def test_a_proxy_that_stops_says_nothing_of_runs_that_go_on(setup: Setup) -> None:
    with setup.connect() as sock, listening() as given:
        await setup.ask(sock, opening(), given)
        await setup.api.close()
    assert setup.runs == []


async def test_status_says_where_credentials_are_taken(setup: Setup) -> None:
    with setup.connect() as sock:
        reply = await setup.ask(sock, encode(op="status", tool="inspected@v1"))
    assert reply == {"v": 2, "ok": True, "pid": os.getpid(), "slots": 0, "address": "127.0.0.1:1234", "ca": "PEM"}


def _connected() -> socket.socket:
    ours, other = socket.socketpair()
    other.close()
    return ours


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize("make", [_connected, _udp, lambda: listening("0.0.0.0"), socket.socket])
async def test_only_listening_sockets_on_loopback_are_accepted(setup: Setup, make: Any) -> None:
    with setup.connect() as sock, make() as given:
        reply = await setup.ask(sock, opening(), given)
    assert reply is not None
    assert reply["ok"] is False
    assert setup.gate.opened == []


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b"[]",
        b'{"v": 1, "op": "open"}',
        b'{"v": 2}',
        b'{"v": 2, "op": "fly"}',
        b'{"v": 2, "op": "open"}',
        b'{"v": 2, "op": "open", "tool": "", "run": "r", "listeners": [{"port": 1, "target": null}]}',
        b'{"v": 2, "op": "open", "tool": "t", "run": "r", "listeners": [{"port": "x", "target": null}]}',
        opening(Handover(1), Handover(2)),
    ],
)
async def test_a_message_that_is_not_understood_opens_nothing_and_leaks_nothing(setup: Setup, data: bytes) -> None:
    before = _descriptors()
    with setup.connect() as sock, listening() as given:
        reply = await setup.ask(sock, data, given)
        assert reply is not None
        assert reply["ok"] is False
    await setup.settled(0)
    async with asyncio.timeout(60):
        while _descriptors() > before:  # noqa: ASYNC110  closed by the kernel's leave, not by an event
            await asyncio.sleep(0.01)


async def test_one_connection_carries_one_slot(setup: Setup) -> None:
    with setup.connect() as sock, listening() as one, listening() as two:
        await setup.ask(sock, opening(), one)
        reply = await setup.ask(sock, opening(), two)
    assert reply is not None
    assert reply["error"] == "one connection carries one slot"


async def test_another_users_process_is_turned_away(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_socket, "peer_user", lambda _sock: 12345)
    with setup.connect() as sock, listening() as given:
        assert await setup.ask(sock, opening(), given) is None
    assert setup.gate.opened == []


async def test_a_second_server_of_the_workspace_is_refused_and_a_dead_ones_socket_replaced(
    setup: Setup, tmp_path: Path
) -> None:
    with pytest.raises(BindError, match="another `cloned-proxy serve` runs"):
        Setup(setup.path).api.start()
    stale = tmp_path / "dead" / "slots.sock"
    stale.parent.mkdir()
    with new_socket() as dead:
        dead.bind(str(stale))
    replaced = Setup(stale)
    replaced.api.start()
    await replaced.api.close()
    assert not stale.exists()
