"""WebSockets under a rule that injects, in opened TLS: real clients, a real server (uvicorn) that compresses.

A client says `hello` and hears it back; then it says `tell`, and the server repeats the credential that it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.callers.identity import OwnTokens
from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.inspection.http1 import exchange
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.store.settings.config import ProxySettings
from tests.net import clients
from tests.proxy.inspection.support import KEY, World, rule
from tests.proxy.support import until

CANARY = "sk-canary/4f+9="
BEARER = f"Bearer {CANARY}"
CLOSED = "closed 1008 secret_echoed: the server repeats a secret that the proxy injected"


@dataclass
class Server:
    """Tells what it saw of each request."""

    calls: list[tuple[str, str | None]] = field(default_factory=list)
    """(what, the credential)."""
    extensions: list[str | None] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(routes=[WebSocketRoute("/v1/chat", self.chat), Route("/v1/chat", self.post, methods=["POST"])])

    async def post(self, request: Request) -> Response:
        self.calls.append(("POST", request.headers.get("authorization")))
        return PlainTextResponse("posted")

    async def chat(self, socket: WebSocket) -> None:
        self.calls.append(("WebSocket", socket.headers.get("authorization")))
        self.extensions.append(socket.headers.get("sec-websocket-extensions"))
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                word = await socket.receive_text()
                self.heard.append(word)
                await socket.send_text(
                    f"your credential is {socket.headers['authorization']}" if word == "tell" else word
                )


@dataclass
class Scene:
    world: World
    server: Server
    proxy: str
    url: str
    bundle: Path
    """What the clients trust."""

    async def run(self, *command: str, env: dict[str, str] | None = None) -> list[str]:
        """The lines that a client prints."""
        certificate = str(self.bundle)
        own = {**clients.proxy_environment(self.proxy), "NODE_EXTRA_CA_CERTS": certificate, **(env or {})}
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **own}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        return out.decode().splitlines()


@contextlib.asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    world = World.make(directory, ProxySettings())
    world.secrets.values["llm.api_key"] = CANARY
    key, chain = directory / "server.key", directory / "server.pem"
    leaf = world.ca.issue_cert("api.test")
    leaf.private_key_pem.write_to_path(str(key))
    leaf.cert_chain_pems[0].write_to_path(str(chain))
    gate = Gate(
        enforcer=world.enforcer,
        tokens=OwnTokens(KEY),
        settings=world.settings,
        metrics=world.metrics,
        inspector=world.inspector,
    )
    upstream, front = bind_tcp("127.0.0.1", 0), bind_tcp("127.0.0.1", 0)
    port = upstream.getsockname()[1]
    world.allow(rule("api.test", port, inject=Inject("Authorization", "Bearer ${vault:llm.api_key}")))
    server = Server()
    config = uvicorn.Config(
        server.app(), ssl_keyfile=str(key), ssl_certfile=str(chain), lifespan="off", log_level="critical"
    )
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve(sockets=[upstream]))
    await gate.open(Listener(front, ANONYMOUS, "test"))
    world.client_tls()  # makes the CA
    proxy = f"http://127.0.0.1:{front.getsockname()[1]}"
    try:
        await until(lambda: running.started or serving.done())
        yield Scene(world, server, proxy, f"wss://api.test:{port}/v1/chat", directory / "ca" / "cloned-proxy-ca.pem")
    finally:
        await gate.drain(0)
        await world.inspector.close()
        running.should_exit = running.force_exit = True
        await serving


type Talk = Callable[[Scene], Coroutine[None, None, list[str]]]


async def python_websockets(s: Scene) -> list[str]:
    lines = []
    async with asyncio.timeout(60), connect(s.url, proxy=s.proxy, ssl=s.world.client_tls()) as socket:
        try:
            for word in ("hello", "tell"):
                await socket.send(word)
                lines.append(f"got {await socket.recv()!s}")
        except ConnectionClosed as closed:
            lines.append(f"closed {closed.rcvd.code} {closed.rcvd.reason}" if closed.rcvd else "cut off")
    return lines


async def websocket_client(s: Scene) -> list[str]:
    script = Path(__file__).with_name("websocket_client.py")
    return await s.run(sys.executable, str(script), s.url, str(s.bundle), "hello", "tell")


async def node_ws(s: Scene) -> list[str]:
    return await s.run(clients.node(), str(clients.NODE_DIRECTORY / "websocket_ws.mjs"), s.url, "hello", "tell")


async def node_undici(s: Scene) -> list[str]:
    script = str(clients.NODE_DIRECTORY / "websocket_undici.mjs")
    return await s.run(clients.node(), script, s.url, "hello", "tell", env={"NODE_USE_ENV_PROXY": "1"})


@pytest.mark.parametrize("client", [python_websockets, websocket_client, node_ws, node_undici])
async def test_a_client_talks_and_does_not_hear_the_secret(tmp_path: Path, client: Talk) -> None:
    async with scene(tmp_path) as s:
        lines = await client(s)
        assert lines == ["got hello", CLOSED]
        assert s.server.calls == [("WebSocket", BEARER)]
        assert (s.server.extensions, s.server.heard) == ([None], ["hello", "tell"])
        await until(lambda: bool(s.world.audit.ends))
        assert [end.cause for end in s.world.audit.ends] == ["refused:secret_echoed"]


async def test_a_client_that_tries_a_websocket_first_goes_through_at_the_first_try(tmp_path: Path) -> None:
    """As Codex does: a POST follows where the upgrade fails, and no POST has to."""
    async with scene(tmp_path) as s:
        async with asyncio.timeout(60), connect(s.url, proxy=s.proxy, ssl=s.world.client_tls()) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
        context = s.world.client_tls()
        context.set_alpn_protocols(["http/1.1"])
        async with httpx.AsyncClient(proxy=s.proxy, verify=context) as posting:
            answer = await posting.post(s.url.replace("wss:", "https:"), content="a question")
        assert (answer.status_code, answer.text) == (200, "posted")
        assert s.server.calls == [("WebSocket", BEARER), ("POST", BEARER)]


async def test_control_without_the_search_a_client_hears_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "EchoGuard", lambda secrets: None)
    async with scene(tmp_path) as s:
        assert await python_websockets(s) == ["got hello", f"got your credential is {BEARER}"]
