"""The composition root in process: nothing before everything, everything taken apart again, problems told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.server import Server
from cloned_proxy.proxy.transport.listener import BindError, Listener, bind_tcp, bind_unix
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace

ANYWHERE = ("127.0.0.1", 0)
TOOL = "demo.tool@v1"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / "ws")
    found.create()
    return found


@pytest.fixture
async def started(workspace: Workspace) -> AsyncIterator[Server]:
    server = Server(workspace, ServeOptions(ANYWHERE, ANYWHERE))
    await server.start()
    yield server
    await server.stop()


def write_policy(workspace: Workspace, text: str) -> None:
    workspace.policy_file.write_text(text)
    workspace.policy_file.chmod(0o600)


async def ask(address: str, request: str) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request.encode())
        writer.write_eof()
        return (await asyncio.wait_for(reader.read(), 60)).decode()
    finally:
        writer.close()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def test_an_unstarted_server_is_not_ready(workspace: Workspace) -> None:
    server = Server(workspace, ServeOptions(ANYWHERE, None))
    assert server.problems() == ("starting",)
    with pytest.raises(RuntimeError):
        _ = server.policy


async def test_a_started_server_is_ready_until_it_stops(workspace: Workspace) -> None:
    before = threads()
    server = Server(workspace, ServeOptions(ANYWHERE, ANYWHERE))
    await server.start()
    host, _, port = server.address.rpartition(":")
    assert server.problems() == ()
    await server.stop()
    assert server.problems() == ("stopping",)
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port)), timeout=2):
        pass
    assert {name for name in threads() - before if not name.startswith("asyncio")} == set()
    await server.stop()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda w: write_policy(w, "version: 1\nmystery: 1\n"), PolicyError),
        (lambda w: w.config_file.write_text("mystery: 1\n"), StoreError),
        (lambda w: w.identity_key.write_bytes(b"short"), StoreError),
        (lambda w: w.state_db.write_bytes(b"not a database" * 100), StoreError),
    ],
    ids=["policy", "settings", "key", "state"],
)
async def test_a_start_that_fails_leaves_nothing_behind(
    workspace: Workspace, damage: Callable[[Workspace], object], error: type[Exception]
) -> None:
    damage(workspace)
    before = threads()
    server = Server(workspace, ServeOptions(ANYWHERE, ANYWHERE))
    with pytest.raises(error):
        await server.start()
    assert {name for name in threads() - before if not name.startswith("asyncio")} == set()
    assert server.problems() == ("starting",)
    await server.stop()


@pytest.mark.parametrize("taken", ["listen", "metrics"])
async def test_a_port_in_use_is_a_bind_error_and_frees_the_other(workspace: Workspace, taken: str) -> None:
    with socket.create_server(ANYWHERE) as busy, socket.socket() as probe:
        probe.bind(ANYWHERE)
        free = probe.getsockname()
        probe.close()
        used = busy.getsockname()
        options = ServeOptions(used, free) if taken == "listen" else ServeOptions(free, used)
        with pytest.raises(BindError, match=str(used[1])):
            await Server(workspace, options).start()
        with socket.create_server(free):
            pass


async def test_a_gate_that_does_not_open_gives_its_port_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[socket.socket] = []

    async def fails(_: Gate, listener: Listener) -> None:
        bound.append(listener.socket)
        raise RuntimeError("no more listeners")

    monkeypatch.setattr(Gate, "open", fails)
    with pytest.raises(RuntimeError, match="no more listeners"):
        await Server(workspace, ServeOptions(ANYWHERE, ANYWHERE)).start()
    assert [one.fileno() for one in bound] == [-1]


async def test_the_proxy_never_dials_its_own_listeners(workspace: Workspace) -> None:
    with socket.socket() as probe:
        probe.bind(ANYWHERE)
        metrics = probe.getsockname()
    ports = f"[{metrics[1]}]"
    write_policy(workspace, f"version: 1\nanonymous: global\nglobal:\n  allow: [{{host: 127.0.0.1, ports: {ports}}}]\n")
    server = Server(workspace, ServeOptions(ANYWHERE, metrics))
    await server.start()
    try:
        place = f"127.0.0.1:{metrics[1]}"
        request = f"GET http://{place}/metrics HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
        assert "address_not_allowed" in await ask(server.address, request)
    finally:
        await server.stop()


async def test_a_lost_listener_is_a_problem(started: Server) -> None:
    running = started._running
    running.core.gate.stop_accepting()
    await asyncio.sleep(0.05)
    assert any("listener" in problem for problem in started.problems())


async def test_a_dead_writer_is_a_problem(started: Server) -> None:
    await asyncio.to_thread(started._running.core.state.audit.close)
    assert any("audit" in problem for problem in started.problems())


async def test_a_rejected_policy_is_a_problem_until_it_is_mended(workspace: Workspace, started: Server) -> None:
    good = workspace.policy_file.read_text()
    version = started.policy.version
    write_policy(workspace, "version: 1\nmystery: 1\n")
    await started.reload()
    assert any("mystery" in problem for problem in started.problems())
    assert started.policy.version == version
    write_policy(workspace, good)
    await started.reload()
    assert started.problems() == ()


async def test_a_listener_of_its_own_names_the_caller(workspace: Workspace, started: Server, tmp_path: Path) -> None:
    principal = Principal(TOOL, "run-1", CallerSource.LISTENER)
    path = tmp_path / "slot.sock"
    await started.open(Listener(bind_unix(path), principal, "slot"))
    listening = bind_tcp(*ANYWHERE)
    await started.open(Listener(listening, principal, "slot tcp"))
    request = "GET http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\nConnection: close\r\n\r\n"
    port = listening.getsockname()[1]
    assert f'"tool":"{TOOL}"' in await ask(f"127.0.0.1:{port}", request)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request.encode())
    writer.write_eof()
    assert f'"tool":"{TOOL}"' in (await asyncio.wait_for(reader.read(), 60)).decode()
    writer.close()


async def test_a_change_of_the_policy_cuts_at_once_without_waiting_for_the_next_second(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloned_proxy.proxy.serving.assembly._SWEEP_SECONDS", 3600)
    with socket.create_server(ANYWHERE) as upstream:
        port = upstream.getsockname()[1]
        rule = f"{{host: 127.0.0.1, ports: [{port}], protocols: [tcp]}}"
        write_policy(workspace, f"version: 1\nanonymous: global\nglobal:\n  allow: [{rule}]\n")
        server = Server(workspace, ServeOptions(ANYWHERE, None))
        await server.start()
        try:
            reader, writer = await asyncio.open_connection(*server.address.split(":"))
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            write_policy(workspace, "version: 1\nanonymous: global\n")
            await server.reload()
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()
        finally:
            await server.stop()


async def test_within_the_shutdown_delay_it_is_not_ready_and_serves_on(workspace: Workspace) -> None:
    (workspace.root / "config.yaml").write_text("proxy: {shutdown_delay_seconds: 600}\n")
    server = Server(workspace, ServeOptions(ANYWHERE, ANYWHERE))
    await server.start()
    address, metrics = server.address, server.metrics_address or ""
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    assert "stopping" in await ask(metrics, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "403 " in await ask(address, "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
    server.cut()
    await stopping
    with pytest.raises(OSError, match=r"refused|failed"):
        await ask(address, "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
