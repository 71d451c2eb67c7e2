"""The real gate in front, on both event loops: what `serve` runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from prometheus_client import CollectorRegistry

from cloned_proxy.policy.model import ANONYMOUS
from cloned_proxy.proxy.budget import Budgets
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.gate import Gate
from cloned_proxy.proxy.inspection.engine import MitmInspector
from cloned_proxy.proxy.listener import Listener, bind_tcp, bind_unix
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics
from tests.proxy.inspection.support import KEY, Audit, Leases, Policies, Resolver, Upstream, World, exchange, rule


async def scenario(directory: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("api.test").configure_cert(context)
    ca.cert_pem.write_to_path(str(directory / "upstream.pem"))
    metrics, settings, audit, policies, resolver = (
        Metrics(CollectorRegistry()),
        ProxySettings(),
        Audit(),
        Policies(),
        Resolver(),
    )
    enforcer = Enforcer(
        policies=policies,
        resolver=resolver,  # type: ignore[arg-type]  # a fake with the one method
        budgets=Budgets(asyncio.get_running_loop().time),
        leases=Leases(),
        audit=audit,
        metrics=metrics,
        own_listeners=frozenset(),
    )
    inspector = MitmInspector(
        enforcer=enforcer,
        identity_key=KEY,
        settings=settings,
        metrics=metrics,
        ca_directory=directory / "ca",
        extra_ca=directory / "upstream.pem",
    )
    gate = Gate(enforcer=enforcer, identity_key=KEY, settings=settings, metrics=metrics, inspector=inspector)
    world = World(policies, audit, resolver, enforcer, inspector, Upstream(), Upstream(), ca, directory)
    servers = [await world.upstream.start(), await world.secure.start(context)]
    world.allow(rule("api.test", world.upstream.port), rule("api.test", world.secure.port, paths=("/ok/**",)))
    tcp = bind_tcp("127.0.0.1", 0)
    world.port = tcp.getsockname()[1]
    await gate.open(Listener(tcp, ANONYMOUS, "tcp"))
    await gate.open(Listener(bind_unix(directory / "s"), ANONYMOUS, "unix"))
    try:
        assert b" 200 OK" in await world.talk(world.get("/tcp", "Connection: close\r\n"))
        streams = await asyncio.open_unix_connection(str(directory / "s"))
        assert b" 200 OK" in await exchange(*streams, world.get("/unix", "Connection: close\r\n"))
        assert b" 403 " in await through_connect(world, "/secret")
        assert b" 200 OK" in await through_connect(world, "/ok/1")
        assert "/secret" not in world.secure.text
        assert {"/tcp", "/unix"} == {line.split()[1] for line in world.upstream.text.splitlines() if "GET" in line}
    finally:
        await gate.drain(0.1)
        await inspector.close()
        for server in servers:
            server.close()


async def through_connect(world: World, path: str) -> bytes:
    world.inspector._open_authority()
    target = f"api.test:{world.secure.port}"
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    await writer.start_tls(world.client_tls(), server_hostname="api.test")
    return await exchange(
        reader, writer, f"GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode()
    )


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_behind_the_gate(tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    run(scenario(tmp_path))
