"""More clients than there are places, with two workers: as processes, and as threads of the native plane."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.store.audit.audit_log import AuditLog
from tests.cli.commands.serving.worker_processes import asks_through, tunnel, workers
from tests.cli.program import TOOL, Origin, Serving, Workspace, eventually, literal, policy_text
from tests.proxy.grants.test_denial_flood import FLOODS, Flood, call, token_of
from tests.proxy.support import need_plane, until, upstream

OTHER = "other.tool@v1"
_PATIENCE = 60.0


@pytest.fixture(params=["off", "require"])
def two(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options of `serve` for two workers."""
    if request.param == "require":
        need_plane()
    return "--workers", "2", "--plane", request.param


def serve(workspace: Workspace, config: str, *options: str) -> Serving:
    path = workspace.path / "config.yaml"
    path.write_text(config)
    path.chmod(0o600)
    return workspace.serve(*options)


def kept_call(client: socket.socket, url: str) -> bytes:
    """The status of a call whose connection is kept."""
    client.sendall(f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n\r\n".encode())
    answer = b""
    while b"reached\n" not in answer:
        data = client.recv(4096)
        assert data, answer
        answer += data
    return answer[9:12]


def connected(stack: ExitStack, place: tuple[str, int] | str) -> socket.socket:
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    client = stack.enter_context(socket.socket(family))
    client.settimeout(_PATIENCE)
    client.connect(place)
    return client


def connect_head(origin: Origin, fields: str = "") -> bytes:
    place = f"127.0.0.1:{origin.port}"
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{fields}\r\n".encode()


def answered(clients: list[socket.socket]) -> list[socket.socket]:
    """Those for whom something has come."""
    return select.select(clients, (), (), 0)[0]


def test_clients_that_ask_for_nothing_make_room_and_a_tunnel_stays(
    workspace: Workspace, origin: Origin, two: tuple[str, ...]
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace, "proxy: {max_connections: 8, keep_alive_timeout: 600}\n", *two)
    place = ("127.0.0.1", serving.port)
    with ExitStack() as stack:
        used = stack.enter_context(tunnel(serving, origin))
        idle = [connected(stack, place) for _ in range(7)]
        assert {kept_call(client, origin.url()) for client in idle} == {b"200"}
        for _ in range(3):
            assert kept_call(connected(stack, place), origin.url()) == b"200"
        assert asks_through(used)
        assert {client.recv(1) for client in answered(idle)} == {b""}  # a reset would raise


def test_the_host_leaves_a_fifth_of_the_places_to_a_slot(
    workspace: Workspace, origin: Origin, two: tuple[str, ...], tmp_path: Path
) -> None:
    """The listener of the slot is with one of the workers, and the host's clients are with both."""
    rule = literal(origin, protocols="[tcp]")
    other = f"  {OTHER}: {{allow: [{rule}]}}\n"
    workspace.write_policy(policy_text(allow=[rule], tool_allow=[rule]) + other)
    slot = str(tmp_path / "s.sock")
    serving = serve(workspace, "proxy: {max_connections: 10}\n", *two, "--slot", f"{TOOL}={slot}")
    # Two callers: no one of them may have so many tunnels that the places of connections become scarce.
    credentials = "", f"Proxy-Authorization: Bearer {workspace.json('token', OTHER)['token']}\r\n"
    with ExitStack() as stack:
        flood = [connected(stack, ("127.0.0.1", serving.port)) for _ in range(14)]
        for number, client in enumerate(flood):
            client.sendall(connect_head(origin, credentials[number % 2]))
        eventually(lambda: len(answered(flood)) >= 8, what="the share of the host")
        for _ in range(2):
            client = connected(stack, slot)
            client.sendall(connect_head(origin))
            assert client.recv(12) == b"HTTP/1.1 200"
        told = answered(flood)
        assert (len(told), {client.recv(12) for client in told}) == (8, {b"HTTP/1.1 200"})


def test_who_waits_in_one_worker_gets_room_from_the_clients_of_another(
    workspace: Workspace, origin: Origin, tmp_path: Path
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)], tool_allow=[literal(origin, protocols="[tcp]")]))
    slot = str(tmp_path / "s.sock")
    config = "proxy: {max_connections: 10, keep_alive_timeout: 600}\n"
    serving = serve(workspace, config, "--workers", "2", "--plane", "off", "--slot", f"{TOOL}={slot}")
    first = workers(serving)[0]
    with ExitStack() as stack:
        os.kill(first, signal.SIGSTOP)
        try:  # so that all of these are with the other one
            idle = [connected(stack, ("127.0.0.1", serving.port)) for _ in range(8)]
            assert {kept_call(client, origin.url()) for client in idle} == {b"200"}
        finally:
            os.kill(first, signal.SIGCONT)
        for _ in range(4):
            client = connected(stack, slot)
            client.sendall(connect_head(origin))
            assert client.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: len(answered(idle)) >= 2, what="the room that was made")
        assert {client.recv(1) for client in answered(idle)} == {b""}


async def test_loops_of_refused_calls_cost_another_caller_no_call(workspace: Workspace, two: tuple[str, ...]) -> None:
    calls = 60
    async with upstream() as canary:
        allowed = f"{{host: localhost, ports: [{canary.port}], addresses: [private]}}"
        workspace.write_policy(policy_text(allow=[allowed]).replace(TOOL, "demo@v1"))
        serving = serve(workspace, "audit: {denials_per_minute: 40}\nproxy: {max_connections: 60}\n", *two)
        address = f"127.0.0.1:{serving.port}"
        floods = [Flood(address, data) for data in FLOODS.values()]
        running = [asyncio.create_task(flood.run()) for flood in floods]
        await until(lambda: all(flood.answered[429] >= 5 for flood in floods))
        token = token_of(workspace.path)
        assert {await call(address, canary.port, token) for _ in range(calls)} == {200}
        await until(lambda: canary.connections == calls)
        for flood in floods:
            flood.stop()
        await asyncio.gather(*running)
    assert {status for flood in floods for status in flood.answered} <= {400, 403, 407, 429}
    serving.signal(signal.SIGTERM)
    await asyncio.to_thread(serving.wait)
    with AuditLog(workspace.path / "state.db") as log:
        denials = list(log.entries(denied=True))
        assert log.verify().holds
    assert sum(entry.times for entry in denials) == sum(flood.answered.total() for flood in floods)
