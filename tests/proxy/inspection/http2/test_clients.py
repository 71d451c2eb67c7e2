"""Real clients of HTTP/2 and gRPC through the gate, to an upstream of HTTP/2 and to one of HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import httpx
import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.callers.identity import OwnTokens
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from tests.net import clients
from tests.proxy.inspection.http2.peers import Message, Upstream2, UpstreamPeer
from tests.proxy.inspection.http2.test_grpc import server
from tests.proxy.inspection.support import KEY, World, rule

__all__ = ["server"]

HERE = Path(__file__).parent
SENT = "hello from "


@dataclass
class Scene:
    world: World
    proxy: str

    @property
    def roots(self) -> bytes:
        return Path(self.ca).read_bytes()

    @property
    def ca(self) -> str:
        return str(self.world.directory / "ca" / "cloned-proxy-ca.pem")

    def url(self, path: str) -> str:
        return f"https://{self.world.authority}{path}"

    async def run(self, *command: str) -> list[str]:
        """The lines that a client prints."""
        own = {**clients.proxy_environment(self.proxy), "NODE_EXTRA_CA_CERTS": self.ca, "GOFLAGS": "-mod=mod"}
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return out.decode().splitlines()


@contextlib.asynccontextmanager
async def gate(world: World) -> AsyncIterator[Scene]:
    """In front of the inspection."""
    made = Gate(
        enforcer=world.enforcer,
        tokens=OwnTokens(KEY),
        settings=world.settings,
        metrics=world.metrics,
        inspector=world.inspector,
    )
    front = bind_tcp("127.0.0.1", 0)
    await made.open(Listener(front, ANONYMOUS, "test"))
    world.client_tls()  # makes the CA
    try:
        yield Scene(world, f"http://127.0.0.1:{front.getsockname()[1]}")
    finally:
        await made.drain(0)


async def curl(s: Scene) -> list[str]:
    made = ["-sS", "--http2", "--cacert", s.ca, "-d", f"{SENT}curl", "-w", "\n%{http_version}\n"]
    done = [await s.run(clients.needed("curl"), *made, s.url(path)) for path in ("/ok/1", "/no/1")]
    return [f"{lines[-1]} {' '.join(lines[:-1])}" for lines in done]


async def python_httpx(s: Scene) -> list[str]:
    lines = []
    async with httpx.AsyncClient(http2=True, proxy=s.proxy, verify=s.world.client_tls("h2", "http/1.1")) as client:
        for path in ("/ok/1", "/no/1"):
            answer = await client.post(s.url(path), content=f"{SENT}httpx")
            lines.append(f"{answer.http_version} {answer.status_code} {answer.text}")
    return lines


async def node_http2(s: Scene) -> list[str]:
    script = str(clients.NODE_DIRECTORY / "http2.mjs")
    return [f"2 {line}" for line in await s.run(clients.node(), script, s.proxy, s.url("/ok/1"), s.url("/no/1"))]


async def go(s: Scene) -> list[str]:
    return await s.run(clients.needed("go"), "run", str(HERE / "fetch.go"), s.ca, s.url("/ok/1"), s.url("/no/1"))


async def java(s: Scene) -> list[str]:
    clients.needed("javac")
    port = s.proxy.rpartition(":")[2]
    program = str(HERE / "Fetch.java")
    return await s.run(clients.needed("java"), program, port, s.ca, s.url("/ok/1"), s.url("/no/1"))


type Fetch = Callable[[Scene], Coroutine[None, None, list[str]]]

CLIENTS = [
    curl,
    python_httpx,
    node_http2,
    pytest.param(go, marks=pytest.mark.slow),
    pytest.param(java, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("fetch", CLIENTS, ids=lambda fetch: fetch.__name__)
async def test_a_client_of_http2_is_decided_request_by_request(h2: World, upstream: Upstream2, fetch: Fetch) -> None:
    async def repeat(peer: UpstreamPeer, stream: int, message: Message) -> None:
        await message.over.wait()
        peer.h2.send_headers(stream, [(":status", "200")])
        await peer.send_body(stream, b"heard " + bytes(message.body))

    upstream.serve = repeat
    h2.allow(rule("api.test", h2.upstream.port, paths=("/ok/**",)))
    async with gate(h2) as s:
        lines = await fetch(s)
    assert len(lines) == 2, lines
    allowed, denied = lines
    assert ("2" in allowed.split()[0], f"heard {SENT}" in allowed) == (True, True), lines
    assert "path_not_allowed" in denied
    assert [message.get(":path") for message in upstream.requests] == ["/ok/1"]
    assert sorted(h2.audit.reasons) == ["allowed", "path_not_allowed"]


@pytest.mark.parametrize("fetch", CLIENTS[:3], ids=lambda fetch: fetch.__name__)
async def test_a_client_of_http2_and_an_upstream_of_http1(world: World, fetch: Fetch) -> None:
    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            world.upstream.received += head
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths:
                body = await reader.readexactly(int(lengths[0].partition(b":")[2]))
            else:
                body = (await reader.readuntil(b"\r\n0\r\n\r\n")).split(b"\r\n")[1]
            said = b"heard " + body
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))

    world.upstream.reply = repeat
    world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))
    async with gate(world) as s:
        lines = await fetch(s)
    assert f"heard {SENT}" in lines[0], lines
    assert "path_not_allowed" in lines[1]
    assert world.upstream.text.count("POST ") == world.upstream.text.count("POST /ok/1 HTTP/1.1\r\n") == 1


async def test_grpcio_through_the_gate(server: World) -> None:
    async with gate(server) as s:
        where = s.proxy.removeprefix("http://")
        options = [("grpc.http_proxy", f"http://{where}"), ("grpc.enable_retries", 0)]
        credentials = grpc.ssl_channel_credentials(s.roots)
        async with grpc.aio.secure_channel(server.authority, credentials, options) as channel:
            assert await channel.unary_unary("/test.Allowed/Unary")(b"abc") == b"cba"
            with pytest.raises(grpc.aio.AioRpcError) as denied:
                await channel.unary_unary("/test.Other/Unary")(b"abc")
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "--path /test.Other/Unary" in str(denied.value.details())


async def test_grpc_js_through_the_gate(server: World) -> None:
    clients.installed(clients.NODE_DIRECTORY, "@grpc/grpc-js")
    async with gate(server) as s:
        lines = await s.run(clients.node(), str(clients.NODE_DIRECTORY / "grpc.mjs"), server.authority, s.ca)
    assert lines == [
        "cba",
        "ONETWOTHREE",
        f"7 path_not_allowed: cloned-proxy allow {server.authority} --method POST --path /test.Other/Unary",
    ]
