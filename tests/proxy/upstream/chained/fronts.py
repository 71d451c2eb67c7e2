"""A scripted proxy in front, on loopback: it keeps what it was asked, and answers as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from tests.proxy.support import Secrets, echo

TARGET: Final = ipaddress.ip_address("93.184.216.10")
"""What the name resolves to. Nobody here could reach it: what arrives came through the proxy in front."""
OPEN: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
CREDENTIAL: Final = {"upstream.proxy": "corp-user:corp:pa55word"}
BASIC: Final = "Basic Y29ycC11c2VyOmNvcnA6cGE1NXdvcmQ="

type Behind = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class Front:
    """`answers` are for one connection after the other, the last one for all further ones."""

    answers: list[bytes]
    behind: Behind
    port: int = 0
    scheme: str = "http"
    heads: list[bytes] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    """What came behind the heads."""
    ended: int = 0
    """Connections that are gone."""

    def settings(self, **more: Any) -> UpstreamSettings:
        """`upstream:` with this one in front."""
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return UpstreamSettings.model_validate({"proxy": f"{self.scheme}://{host}:{self.port}", **more})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answers[min(len(self.heads), len(self.answers)) - 1])
            await self.behind(reader, writer)
        self.ended += 1
        writer.transport.abort()

    async def record_and_echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(reader, writer, self.received.extend)


@contextlib.asynccontextmanager
async def front(
    *answers: bytes, behind: Behind | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Front]:
    """Runs until the block ends. Without `behind` it echoes what comes through the tunnel."""
    made = Front(list(answers) or [OPEN], behind or _nothing, scheme="https" if tls is not None else "http")
    if behind is None:
        made.behind = made.record_and_echo
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


async def _nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    raise AssertionError("replaced at once")


def vault() -> Secrets:
    return Secrets(**CREDENTIAL)
