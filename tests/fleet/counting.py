"""Replicas of one fleet: the real enforcer, budgets and log of each, and a canary that counts what passed them all."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, Self

import redis
from prometheus_client import CollectorRegistry

from cloned_proxy.fleet.leases.counted_audit import CountedAudit
from cloned_proxy.fleet.leases.resumption import LeaseResumption, seal_resumption
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.leases.use_scripts import RESUME
from cloned_proxy.fleet.leases.uses import Uses
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.cells import OwnCells
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.replica.shares import Shares
from cloned_proxy.proxy.transport.listener import OwnListeners
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.store.settings.config import AuditSettings
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.telemetry.events import Kind
from cloned_proxy.telemetry.share_metrics import ShareMetrics
from tests.proxy.support import LOOPBACK, Policies, RecordingMetrics, TableResolver, allow
from tests.waiting import until as until  # noqa: PLC0414  who takes the rest from here takes it, too

FLEET: Final = "acme"
OPERATOR: Final = SigningKey.generate()
TOOL: Final = "demo@v1"
CALLER: Final = Principal(TOOL, "run-1", CallerSource.LISTENER)
FORK: Final = multiprocessing.get_context("fork")
"""Real processes at the price of a fork: each has its own memory, and can be killed."""


class Canary:
    """Counts the bytes that reach it, one for each request that passed."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listening.getsockname()[1]
        self.arrivals: list[float] = []
        """Monotonic seconds of each byte."""
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closed alone it would be accepted from for ever, and by its number, which the next canary's may get.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listening.close()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                if connection.recv(1):
                    self.arrivals.append(time.monotonic())
                    connection.sendall(b"!")


def policy(port: int, *, uses: int | None = None, limits: Limits | None = None) -> Policy:
    rule = allow("127.0.0.1", port, scope=TOOL, max_uses=uses)
    scope = Scope(allow=HostIndex([rule]), limits=limits or Limits())
    return Policy("v1", Mode.ENFORCE, Anonymous.GLOBAL, Scope(), {TOOL: scope})


class Replica:
    """One of them, as `assembly` would put it together."""

    def __init__(
        self,
        name: str,
        url: str,
        directory: Path,
        current: Policy,
        *,
        on_store_loss: str = "local_share",
        settle: int = 0,
        acknowledged_by: int = 0,
        begins: bool = True,
    ) -> None:
        """`begins` a count of uses where the store has none, as the first `fleet publish` does."""
        directory.mkdir(exist_ok=True)
        if begins:
            begin_count(url)
        settings = FleetSettings(name=FLEET, store=url, trust=[OPERATOR.public])
        self.name = name
        self.link = Link(settings, base=directory)

        def taken_here() -> dict[str, int]:
            with AuditLog(directory / "state.db") as log:
                return log.lease_uses()

        self.uses = Uses(
            self.link,
            FLEET,
            name,
            memory=directory / "uses.json",
            trust=Trust([OPERATOR.public]),
            taken_here=taken_here,
            acknowledged_by=acknowledged_by,
        )
        self.state = State(directory / "state.db", AuditSettings(retention_days=36_500))
        self.state.leases.keep(current.rules)
        self.link.at_connect(self.uses.join)
        self.policies = Policies(current)
        self.shares = Shares(
            self.link,
            FLEET,
            name,
            process=secrets.token_hex(4),
            on_store_loss=on_store_loss,
            policies=self.policies,
            store=OwnCells(),
            settle=settle,
            metrics=ShareMetrics(CollectorRegistry()),
            clock=lambda: uptime() + self.later,
        )
        self.budgets = Budgets(time.monotonic, shares=self.shares)
        self.later = 0.0
        """Seconds that the time since boot is ahead, as after a sleep of the machine."""
        self.enforcer = self._enforcer(self.policies)
        self.port = next(iter(current.rules[0].ports))

    def _enforcer(self, policies: Policies) -> Enforcer:
        return Enforcer(
            policies=policies,
            resolver=TableResolver({}),
            budgets=self.budgets,
            leases=self.state.leases,
            audit=CountedAudit(self.state.audit, self.uses),
            metrics=RecordingMetrics(),
            own_listeners=OwnListeners(),
        )

    async def ask(self) -> Grant | Refusal:
        request = Request("127.0.0.1", self.port)
        now = self.enforcer.authorise_now(CALLER, request, Kind.TUNNEL)
        return now if now is not None else await self.enforcer.authorise(CALLER, request, Kind.TUNNEL)

    async def call(self) -> str:
        """One request; what passes sends its byte to the canary. The reason, `allowed` for that."""
        outcome = await self.ask()
        if isinstance(outcome, Refusal):
            return outcome.decision.reason.value
        try:
            reader, writer = await asyncio.open_connection(str(LOOPBACK), self.port)
            writer.write(b".")
            await reader.read(1)
            writer.close()
        finally:
            self.enforcer.finish(outcome, "client_closed")
        return outcome.decision.reason.value

    async def stop(self) -> None:
        """As a service that is stopped; `close` alone is like its death."""
        await self.shares.close()

    async def close(self) -> None:
        await self.link.close()
        self.state.close()


def begin_count(
    url: str, key: SigningKey = OPERATOR, *, at: float = 1.0, fleet: str = FLEET, before: bytes = b"", settle: int = 0
) -> bool:
    """As `fleet resume` does it; False where the store has another count than `before`."""
    names = UseNames(FLEET)
    word = LeaseResumption(fleet, secrets.token_hex(8), at, "cli:op", "because")
    with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(url, protocol=2) as client:
        keys = (names.ledger, names.members)
        return bool(client.eval(RESUME, 2, *keys, before, word.generation, seal_resumption(word, key), settle))
    return False


@contextlib.asynccontextmanager
async def serving(*replicas: Replica) -> AsyncIterator[None]:
    """Connected to the store while inside."""
    for replica in replicas:
        replica.link.start()
    try:
        for replica in replicas:
            await until(lambda replica=replica: replica.link.connected)  # type: ignore[misc]  # bound at once
        works = [work for replica in replicas for work in (replica.shares.run, replica.uses.run)]
        tasks = [asyncio.create_task(work()) for work in works]
        yield
        for task in tasks:
            task.cancel()
    finally:
        for replica in replicas:
            await replica.close()


@contextlib.contextmanager
def processes(count: int, work: Callable[[int], None]) -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started = [FORK.Process(target=work, args=(number,), daemon=True) for number in range(count)]
    for process in started:
        process.start()
    try:
        yield list(started)
    finally:
        for process in started:
            process.kill()
            process.join(60)
