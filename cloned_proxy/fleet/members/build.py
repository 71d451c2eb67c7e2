"""The parts of a replica, put together as its settings say."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from cloned_proxy.fleet.link.client import Secrets
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.members.member import Member, replica_key, replica_name
from cloned_proxy.fleet.signed.errors import FleetError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed_policy.file_source import FileSource
from cloned_proxy.fleet.signed_policy.https_source import HttpsSource
from cloned_proxy.fleet.signed_policy.kept import Shelf
from cloned_proxy.fleet.signed_policy.replica import FleetPolicy
from cloned_proxy.fleet.signed_policy.source import Source
from cloned_proxy.fleet.signed_policy.store_source import StoreSource
from cloned_proxy.policy.reading.narrow import check_narrowing
from cloned_proxy.store.leases.deadline import uptime as since_boot
from cloned_proxy.store.policyfile.live_policy import LivePolicy
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.settings.fleet_settings import FleetSettings, is_url
from cloned_proxy.store.settings.upstream_client import proxy_for
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.fleet_metrics import FleetMetrics


@dataclass(frozen=True, slots=True)
class Fleet:
    """What one process has of its fleet."""

    settings: FleetSettings
    names: Names
    key: SigningKey
    """The replica's own."""
    replica: str
    """Name of the replica."""
    policy: FleetPolicy
    link: Link | None
    """The process's one connection to the store. None: there is no store; the policy comes as a file or from a URL."""
    member: Member | None
    owns_link: bool

    async def start(self, parts: AsyncExitStack) -> None:
        """Begins, once the policy is followed. What ends it is on `parts`."""
        if self.link is None or self.member is None:
            return
        if self.owns_link:
            parts.push_async_callback(self.link.close)
        self.link.start()
        self.member.start()
        parts.push_async_callback(self.member.close)


def build(
    workspace: Workspace,
    config: Config,
    settings: FleetSettings,
    *,
    local_file: Path,
    link: Link | None = None,
    secrets: Secrets | None = None,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.time,
    uptime: Callable[[], float] = since_boot,
    worker: int = 0,
) -> Fleet:
    """Everything, not started yet. `local_file` is the policy file that narrows, where that is set. Raises StoreError.

    `link` is that of the process, and whoever has made it closes it; without one a store gets a link of its own.

    Worker 0 leads.
    """
    Shelf(workspace).create()
    owns_link = link is None and settings.store is not None
    if owns_link:
        link = Link(settings, base=workspace.root, secrets=secrets)
    names, key = Names(settings.name), replica_key(workspace)
    local = None
    if settings.local == "narrow":
        local = LivePolicy(local_file, presets=workspace.presets, clock=clock, check=check_narrowing)
    metrics = FleetMetrics(registry, Refused) if registry is not None else None
    if link is not None and metrics is not None:
        link.parts.on_fault = metrics.fault
    policy = FleetPolicy(
        workspace,
        settings,
        _source(workspace, config, settings, link, names, secrets),
        local=local,
        metrics=metrics,
        clock=clock,
        uptime=uptime,
        leads=worker == 0,
    )
    name = replica_name(settings, key)
    member = Member(link, names, policy, replica=name, worker=worker, now=clock()) if link is not None else None
    return Fleet(settings, names, key, name, policy, link, member, owns_link)


def _source(  # noqa: PLR0917  what it chooses from
    workspace: Workspace,
    config: Config,
    settings: FleetSettings,
    link: Link | None,
    names: Names,
    secrets: Secrets | None,
) -> Source:
    if link is not None:
        longest = settings.poll if settings.max_staleness is None else min(settings.poll, settings.max_staleness / 3)
        return StoreSource(link, names, poll=longest)
    if config.policy is None:
        raise FleetError("`fleet` has no `store`; write one, or `policy:` with the file or https:// of an envelope")
    if not is_url(config.policy):
        return FileSource(workspace.root / Path(config.policy).expanduser())
    value_of = secrets.value_of if secrets is not None else str
    return HttpsSource(
        config.policy,
        poll=settings.poll,
        ca_files=tuple(workspace.root / Path(named).expanduser() for named in settings.ca_files),
        ahead=partial(proxy_for, config.policy, config.upstream, value_of, workspace.root),
    )
