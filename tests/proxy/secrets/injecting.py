"""A gate whose rule adds a secret to plain requests, and an upstream that sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cloned_proxy.policy.terms.rule import Inject, Rule
from tests.proxy.plain.support import Message, client, read_message, request
from tests.proxy.support import HOST, Handler, Secrets, Upstream, World, allow, upstream, world

CANARY = "sk-canary/4f+9="
BEARER = Inject("Authorization", "Bearer ${vault:llm.api_key}")


def injecting(port: int, inject: Inject = BEARER, **more: object) -> Rule:
    return allow(HOST, port, inject=inject, **more)


def vault() -> Secrets:
    return Secrets(**{"llm.api_key": CANARY})


@dataclass
class Scene:
    """One client of a proxy whose rule injects, and the upstream behind it."""

    world: World
    server: Upstream
    secrets: Secrets
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: str = "/", *, method: str = "GET", headers: str = "", body: bytes = b"") -> Message:
        self.writer.write(request(self.server.port, path, method=method, headers=headers, body=body))
        return await read_message(self.reader)


@contextlib.asynccontextmanager
async def scene(handler: Handler, inject: Inject = BEARER, **more: object) -> AsyncIterator[Scene]:
    secrets = vault()
    async with (
        upstream(handler) as server,
        world(injecting(server.port, inject, **more), secrets=secrets) as w,
        client(w) as (reader, writer),
    ):
        yield Scene(w, server, secrets, reader, writer)
