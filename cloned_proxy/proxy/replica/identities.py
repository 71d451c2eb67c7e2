"""Whose tokens this proxy accepts: those of its workspace, and in a fleet those of the fleet and of its issuers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry

from cloned_proxy.policy.callers.identity import OwnTokens, TokenVerifier
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.workspaces.keys import load_or_create_key
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.identity_metrics import IdentityMetrics

if TYPE_CHECKING:
    from cloned_proxy.fleet.tokens.issuer import Issuer

_log = structlog.get_logger(__name__)

_FIRST_KEYS_SECONDS: Final = 5.0
"""How long a start waits for the keys of issuers. Until they are there their tokens are refused, nothing else."""


async def open_identities(
    parts: AsyncExitStack,
    workspace: Workspace,
    config: Config,
    vault: LiveVault,
    registry: CollectorRegistry,
    *,
    clock: Callable[[], float],
) -> TokenVerifier:
    """What verifies tokens, with what ends it on `parts`. Raises StoreError: a key or a library that is missing."""
    own = OwnTokens(load_or_create_key(workspace.identity_key))
    fleet = config.fleet
    if fleet is None:
        return own
    from cloned_proxy.fleet.link.libraries import need_libraries  # noqa: PLC0415  optional, as all that follow

    need_libraries()
    from cloned_proxy.fleet.tokens.issuer import Issuer  # noqa: PLC0415
    from cloned_proxy.fleet.tokens.jwks import fleet_keys  # noqa: PLC0415
    from cloned_proxy.fleet.tokens.jwks_source import source_of  # noqa: PLC0415
    from cloned_proxy.fleet.tokens.token_form import Fault  # noqa: PLC0415
    from cloned_proxy.fleet.tokens.tool_tokens import FleetTokens  # noqa: PLC0415
    from cloned_proxy.store.settings.upstream_client import proxy_for  # noqa: PLC0415

    metrics = IdentityMetrics(registry, Fault, [each.issuer for each in fleet.issuers])
    tokens = FleetTokens(own, fleet=fleet.name, keys=fleet_keys(fleet.trust), on_refused=metrics.refused)
    ahead = partial(proxy_for, settings=config.upstream, value_of=vault.value_of, base=workspace.root)
    issuers = [
        Issuer(
            each,
            source_of(each, workspace.root, ahead),
            on_change=tokens.changed,
            on_load=partial(metrics.loaded, each.issuer, clock),
        )
        for each in fleet.issuers
    ]
    tokens.add(issuers)
    await _follow(parts, issuers)
    return tokens


async def _follow(parts: AsyncExitStack, issuers: Sequence[Issuer]) -> None:
    tasks = [asyncio.create_task(issuer.follow()) for issuer in issuers]
    parts.push_async_callback(_end, tasks)
    try:
        async with asyncio.timeout(_FIRST_KEYS_SECONDS):
            for issuer in issuers:
                await issuer.tried.wait()
    except TimeoutError:
        _log.warning("an issuer has not answered yet; its tokens are refused until its keys are there")


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
