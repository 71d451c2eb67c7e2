"""A whole gate on loopback: real sockets, the real enforcer and policy, recording fakes at the edges."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, Principal
from cloned_proxy.policy.callers.identity import OwnTokens, TokenVerifier
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Address, Host, HostPattern, PatternKind, Rule
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode, Reason
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.denial_budget import DENIALS_PER_MINUTE, DenialBudget
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.secrets.injection import Injector
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.transport import splice
from cloned_proxy.proxy.transport.listener import Listener, OwnListeners, bind_tcp, bind_unix
from cloned_proxy.proxy.upstream.chained.front import UpstreamProxy
from cloned_proxy.proxy.upstream.resolver import ResolveError, Resolver
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.proxy.wire.head import Head, parse_head
from cloned_proxy.store.audit.chain import canonical_json
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.store.settings.listen_settings import Network
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from cloned_proxy.telemetry.combined import FinishedDecision, RepeatedDecision, repeated_id
from cloned_proxy.telemetry.events import (
    AuditUnavailableError,
    DecisionEvent,
    Entries,
    EntrySource,
    Event,
    FlowEnd,
    Kind,
)
from cloned_proxy.telemetry.metrics import Metrics
from cloned_proxy.telemetry.wait_metrics import WaitMetrics, WaitReason
from tests.waiting import until as until  # noqa: PLC0414  who takes the rest from here takes it, too


def seconds_waited(w: World, reason: WaitReason) -> float:
    """What the metric says after the sweep that has just been."""
    labels = {"reason": reason.value}
    return w.metrics.registry.get_sample_value("cloned_proxy_waiting_seconds_total", labels) or 0.0


@dataclass
class Serving:
    """What serves the common case in each `world` that is made from now on."""

    native: bool = False
    threads: int = 1
    queue: int = 10_000
    """Entries that may wait before heads do."""


SERVING = Serving()


def need_plane() -> None:
    """Skips the test where the native plane is not built; in CI that is an error."""
    if library.find() is None:
        assert not os.environ.get("CI"), "the native plane is not built: make plane"
        pytest.skip("the native plane is not built: make plane")


either_gate: Final = pytest.mark.parametrize("served_by", ["python", "native"], indirect=True)
"""Asks the same of the gate of Python and of the native plane (`served_by` in conftest.py)."""


KEY = b"k" * 32
LOOPBACK = ipaddress.ip_address("127.0.0.1")
HOST = "api.example.com"
DEMO: Final = Principal("demo@v1", source=CallerSource.LISTENER)
PLAIN: Final = b"GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
_HANDSHAKE = 0x16
_TYPE_AT = 5
"""Where the type of a message stands in the first record of a tunnel (RFC 8446, sections 4 and 5.1)."""


def allow(host: str, port: int, **more: object) -> Rule:
    kind = PatternKind.ADDRESS if host[0].isdigit() or ":" in host else PatternKind.EXACT
    values: dict[str, object] = {
        "id": f"r-{host}-{port}",
        "scope": "global",
        "denies": False,
        "pattern": HostPattern(kind, host),
        "ports": frozenset({port}),
        "addresses": frozenset({"private"}),
        **more,
    }
    return Rule(**values)  # type: ignore[arg-type]


def policy(*rules: Rule, limits: Limits | None = None, mode: Mode = Mode.ENFORCE) -> Policy:
    scope = Scope(allow=HostIndex(rules))
    tools = {"demo@v1": Scope(limits=limits)} if limits is not None else {}
    return Policy("v1", mode, Anonymous.GLOBAL, scope, tools)


def hello(name: str | None = HOST) -> bytes:
    """The ClientHello of the ssl module."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without roots, whose loading takes 20 ms
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def as_server_hello(hello: bytes, at: int = 0) -> bytes:
    """The segment of a ClientHello that begins at byte `at` of it, with the other type of message."""
    type_at = _TYPE_AT - at
    return hello if not 0 <= type_at < len(hello) else hello[:type_at] + b"\x02" + hello[type_at + 1 :]


SERVER_HELLO = as_server_hello(hello())
"""As far as anybody but its client looks."""


class Policies:
    def __init__(self, current: Policy | None) -> None:
        self.current = current


class Leases:
    spent: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()

    def take(self, rule: Rule) -> bool:
        return True

    def give_back(self, rule: Rule) -> None:
        pass

    def exhaust(self, rule: Rule) -> None:
        pass


class NoEntries:
    def wait(self, seconds: float) -> bool:
        return False

    def take(self) -> Entries:
        return Entries([], [])

    def suspend(self, *, suspended: bool) -> None:
        pass


class Audit:
    def __init__(self) -> None:
        self._events: list[Event] = []
        self._source: EntrySource | None = None
        self._broken = False
        self.slow_for: set[str | None] = set()
        """Callers who are behind until `disk` is set."""
        self.waiting = 0
        self.disk = asyncio.Event()

    @property
    def broken(self) -> bool:
        return self._broken

    @broken.setter
    def broken(self, broken: bool) -> None:
        self._broken = broken
        if self._source is not None:
            self._source.suspend(suspended=broken)

    @property
    def events(self) -> list[Event]:
        """All in their order, with what the native plane has put on record."""
        if self._source is not None:
            self._events += map(event_of, self._source.take().bodies)
        return self._events

    def join(self, source: EntrySource) -> None:
        self._source = source

    def record(self, event: Event, *, owner: str | None = None) -> None:
        if self.broken:
            raise AuditUnavailableError
        self.events.append(event)

    def denied(self, event: DecisionEvent, *, owner: str | None = None, summary: bool = False) -> str:
        self.record(event)
        return event.id

    async def commit(self, event: Event, *, uses: int | None = None, owner: str | None = None) -> None:
        self.record(event)

    def behind(self, owner: str | None) -> bool:
        return owner in self.slow_for and not self.disk.is_set()

    async def caught_up(self) -> None:
        self.waiting += 1
        await self.disk.wait()
        if self.broken:
            raise AuditUnavailableError

    @property
    def ids(self) -> list[str]:
        """Of all decisions, also of those that share an entry."""
        decisions = (event for event in self.events if isinstance(event, DecisionEvent))
        return [repeated_id(event.id, number) for event in decisions for number in range(event.times)]

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(event.verdict, event.reason) for event in self.events if isinstance(event, DecisionEvent)]

    @property
    def ends(self) -> list[FlowEnd]:
        """Those of finished exchanges too, whose entry is that of their decision."""
        ends = (_end_in(event) if isinstance(event, FinishedDecision) else event for event in self.events)
        return [event for event in ends if isinstance(event, FlowEnd)]


def _end_in(event: FinishedDecision) -> FlowEnd:
    up, down = event.bytes_up, event.bytes_down
    return FlowEnd(event.id, event.ended, event.tool, up, down, event.seconds, event.cause)


def event_of(body: str) -> Event:
    """The event that an entry of the log holds, which is of the form in which we would have written it."""
    fields = json.loads(body)
    kind = fields.pop("type")
    if kind == "decision":
        fields["kind"], fields["reason"] = Kind(fields["kind"]), Reason(fields["reason"])
    event: Event = _kind_of(kind, fields)(**fields)
    assert canonical_json(event) == body
    return event


def _kind_of(kind: str, fields: dict[str, Any]) -> type[DecisionEvent | FlowEnd]:
    if kind != "decision":
        return FlowEnd
    return FinishedDecision if "ended" in fields else RepeatedDecision if "count" in fields else DecisionEvent


class Secrets:
    """A vault whose content a test sets."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def value_of(self, name: str) -> str:
        if name not in self.values:
            raise StoreError(f"holds no {name!r}")
        return self.values[name]


class RecordingMetrics(Metrics):
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.waits = WaitMetrics(self.registry)
        self._open = 0
        self._connects = 0
        self.dropped = 0
        self.failures = 0
        self.headers_refused = 0
        self._refresh: Callable[[], None] | None = None

    @property
    def open(self) -> int:
        if self._refresh is not None:
            self._refresh()
        return self._open

    @property
    def connects(self) -> int:
        if self._refresh is not None:
            self._refresh()
        return self._connects

    def refreshed_by(self, refresh: Callable[[], None] | None) -> None:
        self._refresh = refresh

    def decided_elsewhere(self, event: DecisionEvent, count: int, newest: str, at: float) -> None:
        pass

    def observed_elsewhere(self, which: int, counts: list[int], total: float) -> None:
        if which == 0:
            self._connects += sum(counts)

    def plane_failed(self) -> None:
        self.failures += 1

    def header_refused(self) -> None:
        self.headers_refused += 1

    def decided(self, event: DecisionEvent, seconds: float, decision_id: str = "") -> None:
        pass

    def upstream_connected(self, seconds: float) -> None:
        self._connects += 1

    def request_finished(self, kind: str, seconds: float) -> None:
        pass

    def tunnel_opened(self, tool: str | None) -> None:
        self._open += 1

    def tunnel_closed(self, tool: str | None) -> None:
        self._open -= 1

    def bytes_passed(self, tool: str | None, *, up: int, down: int) -> None:
        pass

    def audit_dropped(self) -> None:
        self.dropped += 1


class TableResolver(Resolver):
    """Answers from a table and records who was asked for."""

    def __init__(self, table: dict[str, tuple[Address, ...]]) -> None:
        self.table = table
        self.asked: list[str] = []

    def lasts(self, host: Host) -> float:
        return 60.0 if host.address is not None or host.text in self.table else 0.0

    def known(self, host: Host) -> tuple[Address, ...] | None:
        return (host.address,) if host.address is not None else None

    async def resolve(self, host: Host, tool: str | None = None) -> tuple[Address, ...]:
        if host.address is not None:
            return (host.address,)
        self.asked.append(host.text)
        if host.text not in self.table:
            raise ResolveError("no such name")
        return self.table[host.text]


type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


async def echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[bytes], None] | None = None
) -> None:
    """What it gets, but for one byte: an echoed ClientHello is a ServerHello, with which a tunnel is open."""
    at = 0
    tls = False
    while data := await reader.read(65_536):
        if seen is not None:
            seen(data)
        tls = tls or (at == 0 and data[0] == _HANDSHAKE)
        writer.write(as_server_hello(data, at) if tls else data)
        at += len(data)
        await writer.drain()
    writer.close()


def gone() -> socket.socket:
    """A connection that its peer has reset already: it has no peer name any more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sock = socket.create_connection(listening.getsockname())
        peer, _ = listening.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    sock.setblocking(False)
    return sock


@dataclass
class Upstream:
    """A server that counts its connections and records what it was sent."""

    port: int = 0
    connections: int = 0
    received: bytearray = field(default_factory=bytearray)


@contextlib.asynccontextmanager
async def upstream(handler: Handler | None = None) -> AsyncIterator[Upstream]:
    seen = Upstream()

    async def record_and_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(reader, writer, seen.received.extend)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            await (handler or record_and_echo)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()


@dataclass
class World:
    gate: Gate
    enforcer: Enforcer
    policies: Policies
    audit: Audit
    metrics: RecordingMetrics
    resolver: TableResolver
    own: OwnListeners
    listener: Listener
    troubles: list[str] = field(default_factory=list)
    """With the proxy in front."""
    plane: Plane | None = None
    ahead: UpstreamProxy | None = None

    def publish(self) -> None:
        """Has the plane grant what the rules allow from the first request on, as if each had been granted before."""
        current, caller = self.policies.current, self.listener.principal
        if self.plane is None or current is None or caller is None:
            return
        for rule in current.rules:
            for port in rule.ports if rule.pattern.kind in {PatternKind.EXACT, PatternKind.ADDRESS} else ():
                host = f"[{rule.pattern.value}]" if ":" in rule.pattern.value else rule.pattern.value
                self._publish(current, caller, parse_head(connect_head(port, host)), Request(rule.pattern.value, port))
                if rule.inject is None:
                    asked = f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
                    self._publish(current, caller, parse_head(asked), Request(rule.pattern.value, port, "GET", "/"))

    def _publish(self, current: Policy, caller: Principal, head: Head, request: Request) -> None:
        assert self.plane is not None
        decision = decide(current, caller, request, time.time())
        known = decision.host and (
            (decision.host.address,) if decision.host.address else self.resolver.table.get(decision.host.text)
        )
        if self.ahead is not None and self.ahead.looks_up(decision.host):
            known, passes = (), decision.passes and not self.ahead.closes(decision)
        else:
            closed = self.own if self.ahead is None else self.ahead.closed_to(decision)
            decision = decide_addresses(decision, known or (), closed)
            passes = bool(known) and decision.passes
        if passes:
            charge = self.enforcer.basis.budgets.seen(caller.tool, up=0, down=0)
            kind = Kind.INSPECTED_TUNNEL if decision.inspect else Kind.TUNNEL if request.method is None else Kind.HTTP
            grant = Grant("", kind, decision, caller, known or (), current, charge, 0.0)
            for _ in range(2):  # as the first two grants of Python do: the second publishes
                self.plane.publish(self.listener, head, grant)

    @property
    def address(self) -> str | tuple[str, int]:
        name: str | tuple[str, int] = self.listener.socket.getsockname()
        return name

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        if isinstance(address, str):
            return await asyncio.open_unix_connection(address)
        return await asyncio.open_connection(*address)

    async def tunnel(
        self, port: int, host: str = HOST, first: bytes | None = None, headers: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client behind its 200, with a ClientHello sent (and echoed back) unless `first` says otherwise."""
        reader, writer = await self.connect()
        writer.write(connect_head(port, host, headers))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(hello(host) if first is None else first)
        return reader, writer

    async def ask(self, data: bytes, *, piecewise: bool = False) -> Reply:
        """Sends bytes, reads until the proxy closes."""
        reader, writer = await self.connect()
        try:
            if piecewise:
                for byte in data:
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(0)
            else:
                writer.write(data)
            async with asyncio.timeout(60):
                return Reply.read(await reader.read())
        finally:
            writer.transport.abort()

    async def settled(self) -> None:
        """Until the gate has let go of every connection."""
        await until(lambda: self.gate.idle)


def resident_bytes(pid: int | None = None) -> int:
    """Memory of a process, by default this one, that is not swapped out."""
    return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * resource.getpagesize()


def connect_head(port: int, host: str = HOST, headers: str = "") -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{headers}\r\n".encode()


@dataclass
class Reply:
    status: int
    fields: dict[str, str]
    body: bytes

    @classmethod
    def read(cls, data: bytes) -> Reply:
        head, _, body = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = (field.partition(": ") for field in fields)
        return cls(int(line.split(" ")[1]) if line else 0, {k.lower(): v for k, _, v in pairs}, body)

    @property
    def json(self) -> dict[str, object]:
        content: dict[str, object] = json.loads(self.body)
        return content


@contextlib.asynccontextmanager
async def world(
    *rules: Rule,
    current: Policy | None = None,
    principal: Principal | None = ANONYMOUS,
    inspector: Inspector | None = None,
    secrets: Secrets | None = None,
    watched: dict[str, str] | None = None,
    requests: RequestsApi | None = None,
    unix: Path | None = None,
    header_from: tuple[Network, ...] = (),
    bound: str = "127.0.0.1",
    addresses: tuple[Address, ...] = (LOOPBACK,),
    settings: dict[str, float] | None = None,
    spliced: bool = splice.AVAILABLE,
    front: UpstreamSettings | None = None,
    known: bool = True,
    denials: int = DENIALS_PER_MINUTE,
    tokens: TokenVerifier | None = None,
    clock: Callable[[], float] = time.time,
    **more: float,
) -> AsyncIterator[World]:
    """`front` puts a proxy in front, whose credential is one of the `secrets`.

    `denials` of each caller are recorded one by one. `known`: the native plane, where there is one, has seen a request
    of each rule before. `clock` gives Unix seconds.
    """
    own = OwnListeners()
    plane: Plane | None = None
    bounds = ProxySettings(**(settings or {}), **more)  # type: ignore[arg-type]
    if SERVING.native:
        path = library.find()
        assert path is not None
        plane = Plane(path, bounds, threads=SERVING.threads, queue=SERVING.queue)
    policies = Policies(current or policy(*rules))
    audit, metrics, resolver = Audit(), RecordingMetrics(), TableResolver({HOST: addresses})
    ahead = None
    if front is not None:
        held = secrets or Secrets()
        ahead = UpstreamProxy(front, bounds, resolver=resolver, secrets=held, own=own, base=Path("/nowhere"))
        if front.pac is not None:
            await ahead.look_ahead()
    troubles: list[str] = []
    ways = Ways(ahead, connect_timeout=bounds.connect_timeout, on_trouble=troubles.append)
    enforcer = Enforcer(
        policies=policies,
        resolver=resolver,
        budgets=Budgets(asyncio.get_running_loop().time, plane.cells if plane is not None else None),
        leases=Leases(),
        audit=audit,
        metrics=metrics,
        own_listeners=own,
        clock=clock,
        names=ahead,
        denials=DenialBudget(
            asyncio.get_running_loop().time, plane.cells if plane is not None else None, per_minute=denials
        ),
    )
    leaks = LeakWatch(policies)
    leaks.load(watched or {})
    gate = Gate(
        enforcer=enforcer,
        tokens=tokens or OwnTokens(KEY),
        leaks=leaks,
        settings=bounds,
        metrics=metrics,
        inspector=inspector,
        injector=Injector(secrets) if secrets is not None else None,
        requests=requests,
        clock=clock,
        spliced=spliced,
        plane=plane,
        ways=ways,
    )
    if plane is not None:
        audit.join(plane.entries)
    sock = bind_unix(unix) if unix is not None else bind_tcp(bound, 0)
    own.add(sock)
    listener = Listener(sock, principal, "test", header_from=header_from)
    await gate.open(listener)
    made = World(gate, enforcer, policies, audit, metrics, resolver, own, listener, troubles, plane, ahead)
    if known:
        made.publish()
    try:
        yield made
    finally:
        await gate.drain(0)
        assert gate.idle
        assert metrics.open == 0
        assert len(gate.tunnels) == 0
        if plane is not None:
            assert audit.events is not None  # what is left, before it can no longer be asked for
            plane.free()
            audit.join(NoEntries())
