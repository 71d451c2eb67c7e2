from __future__ import annotations

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from prometheus_client import CollectorRegistry

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Address, Host, Inject, Rule
from cloned_proxy.policy.terms.vocabulary import Anonymous
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.engine import TlsInspector
from cloned_proxy.proxy.inspection.examining.held import HeldBodies
from cloned_proxy.proxy.inspection.http1.connection import InspectedConnection
from cloned_proxy.proxy.inspection.http2.front import Front
from cloned_proxy.proxy.inspection.registry.client import MetadataClient
from cloned_proxy.proxy.inspection.registry.examiner import RegistryExaminer
from cloned_proxy.proxy.secrets.injection import Injector
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.events import DecisionEvent, Event, FlowEnd, Kind
from cloned_proxy.telemetry.metrics import Metrics
from tests.proxy.support import Leases, Secrets

KEY = b"k" * 32
LOOPBACK = ipaddress.ip_address("127.0.0.1")


@dataclass
class Audit:
    events: list[Event] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """A request waits to be committed."""
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, event: Event, *, owner: str | None = None) -> None:
        self.events.append(event)

    def denied(self, event: DecisionEvent, *, owner: str | None = None, summary: bool = False) -> str:
        self.record(event)
        return event.id

    async def commit(self, event: Event, *, uses: int | None = None, owner: str | None = None) -> None:
        if isinstance(event, DecisionEvent) and event.kind is Kind.INSPECTED_REQUEST:
            self.asked.set()
            await self.free.wait()
        self.events.append(event)

    def behind(self, owner: str | None) -> bool:
        return False

    async def caught_up(self) -> None:
        pass

    @property
    def requests(self) -> list[DecisionEvent]:
        """Without their CONNECTs."""
        return [e for e in self.events if isinstance(e, DecisionEvent) and e.kind is Kind.INSPECTED_REQUEST]

    @property
    def reasons(self) -> list[str]:
        return [str(request.reason) for request in self.requests]

    @property
    def ends(self) -> list[FlowEnd]:
        requests = {request.id for request in self.requests}
        return [e for e in self.events if isinstance(e, FlowEnd) and e.decision in requests]


class Resolver:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def known(self, host: Host) -> tuple[Address, ...] | None:
        return None

    async def resolve(self, host: Host, tool: str | None = None) -> tuple[Address, ...]:
        self.asked.append(host.text)
        return (LOOPBACK,)


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

    async def start(self, context: ssl.SSLContext | None = None) -> asyncio.Server:
        server = await asyncio.start_server(functools.partial(self._serve, context), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(
        self, context: ssl.SSLContext | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1  # a dial is one too many, whatever becomes of its handshake
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if context is not None:
                await writer.start_tls(context)
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
    paths: tuple[str, ...] = ("/**",),
    inject: Inject | None = None,
) -> Rule:
    """One that wants to see inside."""
    return Rule(
        id=f"r-{scope}-{pattern}-{port}-{paths}",
        scope=scope,
        denies=False,
        pattern=parse_pattern(pattern),
        ports=frozenset({port}),
        methods=frozenset({"GET", "POST"}),
        paths=tuple(map(parse_path_pattern, paths)),
        addresses=frozenset({"private"}),
        inject=inject,
    )


NAMES = ("api.test", "xn--bcher-kva.test", "files.test")
"""What the certificate of the upstream is for."""


@dataclass
class Clock:
    now: float = 1_800_000_000.0
    """Unix seconds: 2027-01-15T08:00:00Z."""


@dataclass
class World:
    """The inspector between real sockets with real TLS on both; `port` takes what follows a granted CONNECT."""

    policies: Policies
    audit: Audit
    resolver: Resolver
    enforcer: Enforcer
    inspector: TlsInspector
    settings: ProxySettings
    metrics: Metrics
    upstream: Upstream
    ca: trustme.CA
    directory: Path
    port: int = 0
    caller: Principal = ANONYMOUS
    host: str = "api.test"
    """Of the CONNECT; its port is that of the upstream."""
    clock: Clock = field(default_factory=Clock)
    """What ages are counted by."""
    secrets: Secrets = field(default_factory=Secrets)
    """What the vault holds."""
    leaks: LeakWatch = field(default_factory=LeakWatch)
    bodies: HeldBodies = field(default_factory=HeldBodies)
    """What the metadata of registries takes in memory."""

    @classmethod
    def make(cls, directory: Path, settings: ProxySettings) -> World:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(directory / "upstream-ca.pem"))
        policies, audit, resolver, metrics = Policies(), Audit(), Resolver(), Metrics(CollectorRegistry())
        secrets = Secrets()
        enforcer = Enforcer(
            policies=policies,
            resolver=resolver,  # type: ignore[arg-type]  # a fake with the two methods
            budgets=Budgets(asyncio.get_running_loop().time),
            leases=Leases(),
            audit=audit,
            metrics=metrics,
            own_listeners=frozenset(),
        )
        leaks = LeakWatch(policies)
        injector, extra_ca, clock = Injector(secrets), directory / "upstream-ca.pem", Clock()
        bodies = HeldBodies()
        client = MetadataClient(settings, Ways(connect_timeout=settings.connect_timeout), extra_ca=extra_ca)
        inspector = TlsInspector(
            enforcer=enforcer,
            injector=injector,
            leaks=leaks,
            settings=settings,
            metrics=metrics,
            ca_directory=directory / "ca",
            extra_ca=extra_ca,
            examiners=(RegistryExaminer(enforcer, injector, client, clock=lambda: clock.now, bodies=bodies),),
        )
        return cls(
            policies,
            audit,
            resolver,
            enforcer,
            inspector,
            settings,
            metrics,
            Upstream(),
            ca,
            directory,
            secrets=secrets,
            leaks=leaks,
            clock=clock,
            bodies=bodies,
        )

    def server_tls(self, *names: str, ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (ca or self.ca).issue_cert(*(names or NAMES)).configure_cert(context)
        return context

    async def start(self) -> asyncio.Server:
        """The upstream, and a policy that allows it."""
        server = await self.upstream.start(self.server_tls())
        self.allow(rule("api.test", self.upstream.port))
        return server

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the gate does with a CONNECT that it has answered."""
        grant = await self.enforcer.authorise(self.caller, Request(self.host, self.upstream.port), Kind.TUNNEL)
        assert isinstance(grant, Grant)
        try:
            await self.inspector.serve_tunnel(grant, reader, writer)
        finally:
            self.enforcer.finish(grant, "closed")

    def allow(self, *rules: Rule, tools: dict[str, Scope] | None = None) -> None:
        scope = Scope(allow=HostIndex(rules))
        self.policies.current = Policy("v", anonymous=Anonymous.GLOBAL, global_scope=scope, tools=tools or {})

    def hold_decisions(self) -> None:
        """From now on every request waits for `audit.free` before it has its grant."""
        self.enforcer._strict_durability = True

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.upstream.port}"

    @property
    def connection(self) -> InspectedConnection:
        """The one client of HTTP/1.1."""
        (found,) = self.inspector._connections
        assert isinstance(found, InspectedConnection)
        return found

    @property
    def front(self) -> Front:
        """The one client of HTTP/2."""
        (found,) = self.inspector._connections
        assert isinstance(found, Front)
        return found

    @property
    def in_use(self) -> int:
        """Grants that are out, of CONNECTs and of requests."""
        return self.enforcer._budgets.usage(self.caller.tool).concurrent

    def get(self, path: str = "/", extra: str = "", *, method: str = "GET", version: str = "1.1") -> bytes:
        return f"{method} {path} HTTP/{version}\r\nHost: {self.authority}\r\n{extra}\r\n".encode("latin-1")

    def client_tls(self, *protocols: str) -> ssl.SSLContext:
        self.inspector._open_authority()
        context = ssl.create_default_context(cafile=str(self.directory / "ca" / "cloned-proxy-ca.pem"))
        context.set_alpn_protocols(protocols or ["http/1.1"])
        return context

    async def connect(self, port: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", port or self.port, ssl=self.client_tls(), server_hostname=self.host
        )

    async def talk(self, data: bytes, *, piece: int = 0, seconds: float = 60) -> bytes:
        """Sends `data` inside the TLS and reads until the proxy closes, or an answer ends as one that is the last."""
        return await exchange(*await self.connect(), data, piece=piece, seconds=seconds)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, *, piece: int = 0, seconds: float = 60
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
