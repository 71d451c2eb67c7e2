from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from cloned_proxy.policy.host import parse_pattern
from cloned_proxy.policy.model import (
    ANONYMOUS,
    Address,
    Anonymous,
    Host,
    HostIndex,
    Inject,
    PathPattern,
    Policy,
    Principal,
    Rule,
    Scope,
)
from cloned_proxy.policy.path import parse_path_pattern
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.inspection.engine import MitmInspector
from cloned_proxy.telemetry.events import DecisionEvent, Event, FlowEnd

KEY = b"k" * 32
LOOPBACK = ipaddress.ip_address("127.0.0.1")


@dataclass
class Audit:
    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    async def commit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def reasons(self) -> list[str]:
        return [str(e.reason) for e in self.events if isinstance(e, DecisionEvent)]

    @property
    def ends(self) -> list[FlowEnd]:
        return [e for e in self.events if isinstance(e, FlowEnd)]


class Leases:
    spent: frozenset[str] = frozenset()

    def take(self, rule: Rule) -> bool:
        return True


class Resolver:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, tuple[Address, ...]] = {}

    def known(self, host: Host) -> tuple[Address, ...] | None:
        return None

    async def resolve(self, host: Host) -> tuple[Address, ...]:
        self.asked.append(host.text)
        return self.answers.get(host.text, (LOOPBACK,))


@dataclass
class Policies:
    current: Policy | None = None


type Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Upstream:
    """A server that keeps every byte it gets; by default it answers each head with 200."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.connections = 0
        self.port = 0
        self.reply: Reply = self.answer_each_head
        self.response = OK
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, context: ssl.SSLContext | None = None) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.reply(reader, writer)
        writer.transport.abort()

    async def answer_each_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending = b""
        while data := await reader.read(65536):
            self.received += data
            pending += data
            while b"\r\n\r\n" in pending:
                pending = pending.partition(b"\r\n\r\n")[2]
                writer.write(self.response)

    @property
    def text(self) -> str:
        return self.received.decode("latin-1")


def rule(
    pattern: str,
    port: int,
    *,
    scope: str = "global",
    methods: frozenset[str] | None = None,
    paths: tuple[str, ...] | None = None,
    inject: Inject | None = None,
) -> Rule:
    compiled: tuple[PathPattern, ...] | None = tuple(map(parse_path_pattern, paths)) if paths else None
    return Rule(
        id=f"r-{scope}-{pattern}-{port}-{paths}",
        scope=scope,
        denies=False,
        pattern=parse_pattern(pattern),
        ports=frozenset({port}),
        methods=methods,
        paths=compiled,
        private_addresses=True,
        inject=inject,
    )


@dataclass
class World:
    """The inspector between real sockets: `port` takes plain HTTP, `tls_port` what follows a granted CONNECT."""

    policies: Policies
    audit: Audit
    resolver: Resolver
    enforcer: Enforcer
    inspector: MitmInspector
    upstream: Upstream
    secure: Upstream
    ca: trustme.CA
    directory: Path
    port: int = 0
    tls_port: int = 0
    listener: Principal | None = ANONYMOUS
    tunnel_host: str = "api.test"

    def allow(self, *rules: Rule, tools: dict[str, Scope] | None = None) -> None:
        scope = Scope(allow=HostIndex(rules))
        self.policies.current = Policy("v", anonymous=Anonymous.GLOBAL, global_scope=scope, tools=tools or {})

    @property
    def authority(self) -> str:
        return f"api.test:{self.upstream.port}"

    def get(self, path: str = "/", extra: str = "", *, method: str = "GET", version: str = "1.1") -> bytes:
        return (
            f"{method} http://{self.authority}{path} HTTP/{version}\r\nHost: {self.authority}\r\n{extra}\r\n"
        ).encode("latin-1")

    async def talk(self, data: bytes, *, piece: int = 0, eof: bool = False, seconds: float = 5) -> bytes:
        """Sends `data` and reads until the proxy closes or falls silent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return await exchange(reader, writer, data, piece=piece, seconds=seconds)

    def client_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca" / "cloned-proxy-ca.pem"))
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    async def talk_tls(self, data: bytes, *, seconds: float = 5) -> bytes:
        self.inspector._open_authority()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.tls_port, ssl=self.client_tls(), server_hostname=self.tunnel_host
        )
        return await exchange(reader, writer, data, seconds=seconds)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, *, piece: int = 0, seconds: float = 5
) -> bytes:
    received = bytearray()
    with suppress(ConnectionError):
        for at in range(0, len(data), piece or max(len(data), 1)):
            writer.write(data[at : at + (piece or len(data))])
            await writer.drain()
            if piece:
                await asyncio.sleep(0)
    with suppress(TimeoutError, ConnectionError, ssl.SSLError):
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                received += part
                if received.endswith((b"END", b'"}\n')):
                    break
    writer.transport.abort()
    return bytes(received)
