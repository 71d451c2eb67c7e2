"""A server whose clocks are set: leases end in time, tunnels are cut, and a restart changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path

from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.server import Server
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.store.leases.test_lease_time import HOUR, NOW, YEAR, Clocks

ANYWHERE = ("127.0.0.1", 0)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionResetError):  # how a cut arrives
        while data := await reader.read(100):
            writer.write(data)
    writer.close()


async def _connect(server: Server, port: int) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, own = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(own))
    writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60), reader, writer


async def test_a_wall_clock_set_back_keeps_no_tunnel_open_and_a_restart_revives_nothing(tmp_path: Path) -> None:
    origin = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = origin.sockets[0].getsockname()[1]
    workspace = Workspace(tmp_path / "ws")
    workspace.create()
    until = datetime.fromtimestamp(NOW + HOUR, UTC).isoformat()
    workspace.policy_file.write_text(
        "version: 1\nanonymous: global\nglobal:\n  allow:\n"
        f"    - {{host: 127.0.0.1, ports: [{port}], protocols: [tcp], expires: {until}}}\n"
    )
    clocks = Clocks()

    def serving() -> Server:
        return Server(workspace, ServeOptions(ANYWHERE, None), clock=lambda: clocks.wall, uptime=lambda: clocks.up)

    server = serving()
    await server.start()
    head, reader, writer = await _connect(server, port)
    assert head.startswith(b"HTTP/1.1 200")
    clocks.pass_by(HOUR - 10)
    clocks.wall -= YEAR
    await asyncio.sleep(1.2)  # a sweep
    writer.write(b"still open")
    assert await asyncio.wait_for(reader.readexactly(10), 60) == b"still open"
    clocks.pass_by(10)
    # The next sweep cuts it: within a second of real time, with room for a loaded machine.
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()
    head, _, writer = await _connect(server, port)
    assert b"lease_expired" in head
    writer.close()
    await asyncio.sleep(1.2)  # what is left is kept
    await server.stop()

    server = serving()
    await server.start()
    head, _, writer = await _connect(server, port)
    assert b"lease_expired" in head
    writer.close()
    await server.stop()
    origin.close()
    await origin.wait_closed()
