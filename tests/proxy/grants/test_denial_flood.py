"""Loops of refused calls against a real log: they cost others nothing but time, and the log counts every one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.proxy.plane.choice import PlaneMode, choose
from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.server import Server
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.tally import Tally
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import MANY
from tests.proxy.support import need_plane, until, upstream

_BUDGET = 40
_CONFIG = f"audit: {{denials_per_minute: {_BUDGET}}}\n"
_POLICY = """
version: 1
anonymous: %s
global:
  allow: [{host: localhost, ports: [%d], addresses: [private]}]
tools:
  demo@v1: {}
"""
_EVIL = "evil.example.net"
FLOODS = {
    "a refused CONNECT": f"CONNECT {_EVIL}:443 HTTP/1.1\r\nHost: {_EVIL}:443\r\n\r\n",
    "a refused request": f"GET http://{_EVIL}/ HTTP/1.1\r\nHost: {_EVIL}\r\n\r\n",
    "a forged credential": f"CONNECT {_EVIL}:443 HTTP/1.1\r\nHost: {_EVIL}:443\r\nX-Cloned-Tool-Token: forged\r\n\r\n",
    "a malformed head": "GET http://x/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
}
_LOOPS = 16
_CALLS = 100


def _budget_since(began: float) -> int:
    """Of the minutes that have begun since then: one, unless the machine is very busy."""
    return _BUDGET * (1 + int((time.monotonic() - began) // 60))


class Flood:
    """Loops that send one thing and wait for its answer, over and over, until it is told to stop."""

    def __init__(self, address: str, data: str) -> None:
        self._address = address.rpartition(":")
        self._data = data.encode()
        self._stop = False
        self.answered: Counter[int] = Counter()

    async def run(self) -> None:
        await asyncio.gather(*(self._loop() for _ in range(_LOOPS)))

    async def _loop(self) -> None:
        while not self._stop:
            reader, writer = await asyncio.open_connection(self._address[0], int(self._address[2]))
            writer.write(self._data)
            line = await reader.readline()
            self.answered[int(line.split()[1])] += 1
            writer.transport.abort()

    def stop(self) -> None:
        self._stop = True


@contextlib.asynccontextmanager
async def serving(
    workspace: Workspace, port: int, anonymous: str = "global", plane: PlaneMode = PlaneMode.OFF
) -> AsyncIterator[Server]:
    workspace.create()
    for path, text in ((workspace.policy_file, _POLICY % (anonymous, port)), (workspace.root / "config.yaml", _CONFIG)):
        path.write_text(text)
        path.chmod(0o600)
    server = Server(workspace, ServeOptions(("127.0.0.1", 0), None, plane=choose(plane)))
    await server.start()
    try:
        yield server
    finally:
        server.cut()
        await server.stop()


async def call(address: str, port: int, token: str) -> int:
    """One allowed call with a credential; its status."""
    host, _, own = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(own))
    target = f"localhost:{port}"
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nX-Cloned-Tool-Token: {token}\r\n\r\n".encode())
    try:
        return int((await reader.readline()).split()[1])
    finally:
        writer.transport.abort()


def token_of(directory: Path) -> str:
    """Of the workspace in that directory."""
    key = (directory / "identity.key").read_bytes()
    return mint_token(key, Claims("demo@v1", "run-1", time.time() + 600))


@pytest.fixture(params=[PlaneMode.OFF, PlaneMode.REQUIRE])
def plane(request: pytest.FixtureRequest) -> PlaneMode:
    mode: PlaneMode = request.param
    if mode is PlaneMode.REQUIRE:
        need_plane()
    return mode


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_refusals_costs_nobody_a_call_and_is_on_record_to_the_last_one(
    tmp_path: Path, name: str, plane: PlaneMode
) -> None:
    workspace = Workspace(tmp_path / "ws")
    async with upstream() as canary, serving(workspace, canary.port, plane=plane) as server:
        began = time.monotonic()
        flood = Flood(server.address, FLOODS[name])
        running = asyncio.create_task(flood.run())
        await until(lambda: flood.answered[429] >= 20)
        token = token_of(workspace.root)
        assert {await call(server.address, canary.port, token) for _ in range(_CALLS)} == {200}
        await until(lambda: canary.connections == _CALLS)
        flood.stop()
        await running
    with AuditLog(workspace.state_db) as log, Tally(workspace.state_db) as tally:
        denials = list(log.entries(denied=True))
        assert log.verify().holds
        assert tally.count(since=0, verdict="deny") == flood.answered.total()
    assert sum(entry.times for entry in denials) == flood.answered.total()
    singly = sum(entry.times for entry in denials if entry.body["host"] != MANY)
    assert _BUDGET <= singly <= _budget_since(began)
    assert sum(entry.times for entry in denials if entry.body["host"] == MANY) == flood.answered[429]
    assert len(denials) < _budget_since(began) + 20


async def test_four_floods_at_once_cost_nobody_a_call(tmp_path: Path, plane: PlaneMode) -> None:
    workspace = Workspace(tmp_path / "ws")
    async with upstream() as canary, serving(workspace, canary.port, plane=plane) as server:
        began = time.monotonic()
        floods = [Flood(server.address, data) for data in FLOODS.values()]
        running = [asyncio.create_task(flood.run()) for flood in floods]
        await until(lambda: all(flood.answered[429] >= 5 for flood in floods))
        token = token_of(workspace.root)
        answers = Counter([await call(server.address, canary.port, token) for _ in range(2 * _CALLS)])
        assert answers == {200: 2 * _CALLS}
        for flood in floods:
            flood.stop()
        await asyncio.gather(*running)
    with AuditLog(workspace.state_db) as log:
        denials = list(log.entries(denied=True))
        assert log.verify().holds
    assert sum(entry.times for entry in denials) == sum(flood.answered.total() for flood in floods)
    assert _BUDGET <= sum(entry.times for entry in denials if entry.body["host"] != MANY) <= _budget_since(began)


async def test_a_question_for_a_credential_is_one_behind_any_number_of_others(tmp_path: Path, plane: PlaneMode) -> None:
    """Else a loop without a credential would keep out every client that sends its own only when it is asked."""
    workspace = Workspace(tmp_path / "ws")
    async with upstream() as canary, serving(workspace, canary.port, "challenge", plane) as server:
        flood = Flood(server.address, FLOODS["a refused CONNECT"])
        running = asyncio.create_task(flood.run())
        await until(lambda: flood.answered.total() >= 2 * _BUDGET)
        flood.stop()
        await running
        assert set(flood.answered) == {407}
    with AuditLog(workspace.state_db) as log:
        assert sum(entry.times for entry in log.entries(denied=True)) == flood.answered.total()
