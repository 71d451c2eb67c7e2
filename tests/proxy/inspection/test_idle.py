"""`idle:` of a rule inside of opened TLS: the sweep cuts by it, and the connection's watch waits at least as long."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until


async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
    await reader.read()


@pytest.mark.parametrize("longer", [False, True])
async def test_a_rule_decides_how_long_an_opened_flow_may_be_quiet(
    world: World, monkeypatch: pytest.MonkeyPatch, *, longer: bool
) -> None:
    setting, own = (0.3, 3600.0) if longer else (3600.0, 0.3)
    monkeypatch.setattr(
        world.inspector.services, "settings", world.settings.model_copy(update={"idle_timeout": setting})
    )
    world.upstream.reply = stalls
    world.allow(replace(rule("api.test", world.upstream.port), idle=own))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", world.port, ssl=world.client_tls(), server_hostname="api.test"
    )
    writer.write(world.get())
    await reader.readuntil(b"part")
    world.inspector.sweep()
    assert world.audit.ends == []
    await asyncio.sleep(0.5)
    world.inspector.sweep()
    if longer:
        assert world.audit.ends == []
        world.allow(replace(rule("api.test", world.upstream.port), idle=0.3))
        world.inspector.sweep()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(6)
    writer.transport.abort()
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["idle"]
