"""The two paths of the proxy that read requests, with trouble behind them: plain HTTP, and TLS that is opened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, Principal
from cloned_proxy.policy.model.model import Limits, Policy
from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.terms.rule import Inject, PathPattern
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.inspection.support import World as InspectedWorld
from tests.proxy.inspection.support import rule as inspecting
from tests.proxy.sequences import ALLOWED_PATHS, INJECTING_PATHS, Ports, Scene, Wire
from tests.proxy.support import HOST, Secrets, allow, policy, until, upstream, world
from tests.proxy.trouble import SECRET, Trouble

INJECT: Final = Inject("Authorization", "Bearer ${vault:llm.api_key}")
SETTINGS: Final = {"response_timeout": 0.3, "head_timeout": 15.0, "keep_alive_timeout": 15.0}
_METHODS: Final = frozenset({"GET", "POST"})
_WITHOUT_CUT: Final = tuple(path for path in ALLOWED_PATHS if path != "/cut/**")


def _patterns(paths: tuple[str, ...]) -> tuple[PathPattern, ...]:
    return tuple(map(parse_path_pattern, paths))


@contextlib.asynccontextmanager
async def _resetting() -> AsyncIterator[int]:
    """The port of one who resets every connection before it can be used."""

    async def serve() -> None:
        while True:
            sock, _ = await loop.sock_accept(listening)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        task = asyncio.create_task(serve())
        try:
            yield listening.getsockname()[1]
        finally:
            task.cancel()


def _closed_port() -> socket.socket:
    """A port that is taken, and where nobody listens."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.asynccontextmanager
async def plain_scene(limits: Limits | None = None) -> AsyncIterator[Scene]:
    """With `limits` its one client is the tool `demo@v1`."""
    trouble = Trouble()
    principal = ANONYMOUS if limits is None else Principal("demo@v1", "run", CallerSource.LISTENER)
    async with upstream(trouble) as server, _resetting() as resets:
        with _closed_port() as closed:
            ports = Ports(HOST, server.port, closed.getsockname()[1], resets)

            def allowing(paths: tuple[str, ...]) -> Policy:
                return policy(
                    *(allow(HOST, p, methods=_METHODS) for p in (ports.nobody, ports.resets)),
                    allow(HOST, server.port, methods=_METHODS, paths=_patterns(paths)),
                    allow(HOST, server.port, id="i", methods=_METHODS, paths=_patterns(INJECTING_PATHS), inject=INJECT),
                    limits=limits,
                )

            allowed = allowing(ALLOWED_PATHS)
            revoked = allowing(_WITHOUT_CUT)
            secrets = Secrets(**{"llm.api_key": SECRET})
            async with world(current=allowed, secrets=secrets, settings=SETTINGS, principal=principal) as w:

                def forget() -> None:
                    w.audit.events.clear()
                    trouble.seen.clear()

                async def sweep() -> None:
                    while True:
                        await asyncio.sleep(0.02)
                        w.gate.sweep()
                        if trouble.asked_for_a_cut.is_set():
                            trouble.asked_for_a_cut.clear()
                            w.policies.current = revoked
                            w.gate.sweep()
                            w.policies.current = allowed

                async with _beside(sweep()):
                    yield Scene(
                        ports,
                        trouble,
                        lambda wire: asyncio.get_running_loop().create_connection(lambda: wire, *w.address),
                        # A decision that is taken back is there twice; the paths of a sequence are all different.
                        lambda: list(
                            dict.fromkeys((e.method, e.path) for e in w.audit.events if isinstance(e, DecisionEvent))
                        ),
                        forget,
                        w.settled,
                    )


@contextlib.asynccontextmanager
async def _beside(work: asyncio._CoroutineLike[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()


@contextlib.asynccontextmanager
async def inspected_scene(directory: Path) -> AsyncIterator[Scene]:
    w = InspectedWorld.make(directory, ProxySettings(**SETTINGS))  # type: ignore[arg-type]
    trouble = Trouble()
    w.upstream.reply = trouble
    w.secrets.values["llm.api_key"] = SECRET
    server = await w.start()
    port = w.upstream.port

    def allow_all_of(paths: tuple[str, ...]) -> None:
        injecting = inspecting("api.test", port, paths=INJECTING_PATHS, inject=INJECT)
        w.allow(inspecting("api.test", port, paths=paths), injecting)

    allow_all_of(ALLOWED_PATHS)
    front = await asyncio.start_server(w.serve, "127.0.0.1", 0)
    w.port = front.sockets[0].getsockname()[1]
    tls = w.client_tls()
    tls.set_alpn_protocols(["http/1.1"])

    async def connect(wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: wire, "127.0.0.1", w.port, ssl=tls, server_hostname=w.host)

    async def revoke() -> None:
        while True:
            await trouble.asked_for_a_cut.wait()
            trouble.asked_for_a_cut.clear()
            allow_all_of(_WITHOUT_CUT)
            w.inspector.sweep()
            allow_all_of(ALLOWED_PATHS)

    def forget() -> None:
        w.audit.events.clear()
        trouble.seen.clear()

    try:
        async with _beside(revoke()):
            yield Scene(
                Ports(w.host, port, tunnelled=True),
                trouble,
                connect,
                lambda: list(dict.fromkeys((request.method, request.path) for request in w.audit.requests)),
                forget,
                lambda: until(lambda: not w.in_use),
            )
    finally:
        await w.inspector.close()
        front.close()
        server.close()
