"""A replica that is a log and what sends it, for the tests of sending and reading."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from cloned_proxy.fleet.audit.audit_read import FleetLog
from cloned_proxy.fleet.audit.audit_ship import AuditShipper
from cloned_proxy.fleet.audit.local_log import LocalLog
from cloned_proxy.fleet.audit.notary import Notary
from cloned_proxy.fleet.audit.receipt import own_key
from cloned_proxy.fleet.audit.stream_form import entries_in
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import PolicyEvent
from cloned_proxy.telemetry.shipping_metrics import ShippingMetrics
from tests.fleet.conftest import RedisServer

NAMES = Names("test")
TRUSTED = SigningKey.generate().public


def event(at: float) -> PolicyEvent:
    return PolicyEvent(at, "edit", "cli:me", f"allow host{at:g}.example", "", "v")


@dataclass
class Replica:
    """One replica's log and what sends it; a second one of the same name knows nothing but its disk."""

    name: str
    workspace: Workspace
    link: Link
    registry: CollectorRegistry
    shipper: AuditShipper
    notary: Notary

    @classmethod
    def make(cls, directory: Path, url: str, name: str, keep: int = 1000) -> Replica:
        workspace = Workspace(directory / name)
        workspace.create()
        settings = FleetSettings(name="test", store=url, trust=[TRUSTED])
        link, registry = Link(settings, base=directory), CollectorRegistry()
        shipper = AuditShipper(
            LocalLog(workspace.state_db), link, NAMES, replica=name, key=own_key(workspace).public, keep=keep,
            metrics=ShippingMetrics(registry), clock=lambda: 1100.0,
        )  # fmt: skip
        return cls(name, workspace, link, registry, shipper, Notary(workspace, name))

    def record(self, *times: float) -> None:
        with AuditLog(self.workspace.state_db) as log:
            for at in times:
                log.append(event(at))

    async def until_shipped(self) -> None:
        """The store is back, and some connections to it are not."""
        async with asyncio.timeout(60):
            while not await self.shipper.ship():  # noqa: ASYNC110  each try is what is waited for
                await asyncio.sleep(0.01)

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"cloned_proxy_fleet_audit_{name}")


async def read(replica: Replica, *trust: str, since: float | None = None) -> tuple[list[tuple[str, int]], list[str]]:
    """(replica, number) of each entry in the store in their order, and what is said of them."""
    log = FleetLog(replica.link, NAMES, trust)
    entries = await log.read(since)
    return [(each.replica, each.seq) for each in entries], log.findings.lines()


def entries_of(store: RedisServer, log: str) -> list[tuple[int, str, str]]:
    """Number, hash and body of each entry of a log, however they lie there."""
    with store.client() as client:
        return [(*entry,) for row in client.xrange(NAMES.audit(log)) for entry in entries_in(*row)]


def rows(store: RedisServer) -> list[tuple[int, str, str]]:
    """Those of the one log there is."""
    with store.client() as client:
        (log,) = [key.split(b":")[-1] for key in client.keys("*:audit:*") if not key.endswith((b":logs", b":receipts"))]
        return entries_of(store, log.decode())


def stream(store: RedisServer) -> str:
    """The key of the one log in the store."""
    with store.client() as client:
        (name,) = client.hkeys(NAMES.audit_logs)
        return NAMES.audit(name.decode())
