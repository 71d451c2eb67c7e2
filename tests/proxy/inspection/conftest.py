from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry

from cloned_proxy.policy.model import ANONYMOUS, Request
from cloned_proxy.proxy.budget import Budgets
from cloned_proxy.proxy.enforcer import Enforcer, Grant
from cloned_proxy.proxy.inspection.engine import MitmInspector
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.telemetry.events import Kind
from cloned_proxy.telemetry.metrics import Metrics
from tests.proxy.inspection.support import KEY, Audit, Leases, Policies, Resolver, Upstream, World, rule


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    ca = trustme.CA()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("api.test").configure_cert(server_tls)
    ca.cert_pem.write_to_path(str(tmp_path / "upstream-ca.pem"))
    policies, audit, resolver = Policies(), Audit(), Resolver()
    metrics = Metrics(CollectorRegistry())
    enforcer = Enforcer(
        policies=policies,
        resolver=resolver,  # type: ignore[arg-type]  # a fake with the one method
        budgets=Budgets(asyncio.get_running_loop().time),
        leases=Leases(),
        audit=audit,
        metrics=metrics,
        own_listeners=frozenset(),
    )
    settings = ProxySettings(
        head_timeout=1.0, keep_alive_timeout=2.0, connect_timeout=1.0, response_timeout=1.0, idle_timeout=5.0
    )
    inspector = MitmInspector(
        enforcer=enforcer,
        identity_key=KEY,
        settings=settings,
        metrics=metrics,
        ca_directory=tmp_path / "ca",
        extra_ca=tmp_path / "upstream-ca.pem",
    )
    made = World(policies, audit, resolver, enforcer, inspector, Upstream(), Upstream(), ca, tmp_path)

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await inspector.serve_http(reader, writer, made.listener)

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = made.listener or ANONYMOUS
        grant = await enforcer.authorise(caller, Request(made.tunnel_host, made.secure.port), Kind.TUNNEL)
        assert isinstance(grant, Grant)
        await inspector.serve_tunnel(grant, reader, writer)

    async with AsyncExitStack() as stack:
        stack.push_async_callback(inspector.close)
        servers = [
            await made.upstream.start(),
            await made.secure.start(server_tls),
            front := await asyncio.start_server(plain, "127.0.0.1", 0),
            secure_front := await asyncio.start_server(tunnel, "127.0.0.1", 0),
        ]
        made.port = front.sockets[0].getsockname()[1]
        made.tls_port = secure_front.sockets[0].getsockname()[1]
        made.allow(
            rule("api.test", made.upstream.port),
            rule("api.test", made.secure.port, methods=frozenset({"GET", "POST"}), paths=("/ok/**",)),
        )
        yield made
        for server in servers:
            server.close()
