"""What a process keeps and tells: metrics, secrets, the log with whoever else is to have it, and whose tokens count."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from cloned_proxy.policy.callers.identity import TokenVerifier
from cloned_proxy.proxy.replica.fleet_audit import open_fleet_audit
from cloned_proxy.proxy.replica.fleet_limits import open_link
from cloned_proxy.proxy.replica.identities import open_identities
from cloned_proxy.proxy.serving.setup import Setup
from cloned_proxy.store.audit.audit_tail import AuditTail
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from cloned_proxy.fleet.link.link import Link


@dataclass(frozen=True, slots=True)
class Records:
    metrics: Metrics
    vault: LiveVault
    link: Link | None
    """The one way of this process to the store of the fleet."""
    tokens: TokenVerifier
    state: State


async def open_records(setup: Setup, *, plane: str) -> Records:
    """`plane` is what serves the common case, for the metrics. Raises StoreError."""
    parts, workspace, config = setup.parts, setup.workspace, setup.config
    metrics = Metrics(CollectorRegistry(), shared=setup.worker is not None, plane=plane)
    vault = LiveVault(Vault(workspace, config.vault.key), os.environ)
    await asyncio.to_thread(vault.open)
    link = open_link(parts, workspace, config, vault)
    tail = await _send_log(setup, vault, metrics, link) if setup.leads else None
    tokens = await open_identities(parts, workspace, config, vault, metrics.registry, clock=setup.clock)
    state = State(
        workspace.state_db,
        config.audit,
        clock=setup.clock,
        uptime=setup.uptime,
        leads=setup.leads,
        on_queue=metrics.audit_queue,
        on_size=metrics.audit_log_bytes,
        tail=tail,
    )
    parts.push_async_callback(asyncio.to_thread, state.close)
    return Records(metrics, vault, link, tokens, state)


async def _send_log(setup: Setup, vault: LiveVault, metrics: Metrics, link: Link | None) -> AuditTail | None:
    """To whoever else is to have the log. Taken apart after the log is closed: then it has all there is to send.

    Returns where it wants to be handed what is committed.
    """
    parts, workspace, config = setup.parts, setup.workspace, setup.config
    if config.telemetry.otlp_endpoint is not None:
        parts.push_async_callback(asyncio.to_thread, _start_export(setup, vault, metrics))
    return await open_fleet_audit(parts, workspace, config, link, metrics.registry, clock=setup.clock)


def _start_export(setup: Setup, vault: LiveVault, metrics: Metrics) -> Callable[[], None]:
    """Exports the log from now on; returns what ends it. Raises StoreError without the extra."""
    try:
        from cloned_proxy.store.audit.otlp_export import OtlpExport  # noqa: PLC0415  optional, and half a second to import
        from cloned_proxy.store.settings.upstream_client import proxy_for  # noqa: PLC0415  with it
    except ModuleNotFoundError as error:
        raise StoreError(f"telemetry.otlp_endpoint needs {error.name}: pip install 'cloned-proxy[otlp]'") from error
    workspace, config = setup.workspace, setup.config
    endpoint = config.telemetry.otlp_endpoint or ""
    ahead = partial(proxy_for, endpoint, config.upstream, vault.value_of, workspace.root)
    export = OtlpExport(workspace.root, workspace.state_db, endpoint, metrics.registry, ahead)
    export.start()
    return export.close
