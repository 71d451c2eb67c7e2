"""How a count of uses begins, with the signed word that replicas want for that; `fleet resume` begins one anew."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from typing import Final

from cloned_proxy.fleet.approvals.approval_service import approver_key_file
from cloned_proxy.fleet.approvals.deciding import approver_key
from cloned_proxy.fleet.leases.resumption import LeaseResumption, seal_resumption
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.leases.use_scripts import RESUME
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.signing import signing_key
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace

SETTLE_MILLISECONDS: Final = 10_000
"""Nobody takes a use so long after a count began: what replicas know from their own disks is heard first."""


def resume_uses(workspace: Workspace, *, by: str, reason: str) -> str:
    """The generation of the new count. Blocks. Raises StoreError: nothing has changed then.

    What replicas know from their own disks stays taken; what only lost ones knew is forgotten.
    """
    settings = workspace.config().fleet
    if settings is None or settings.store is None:
        raise FleetError(
            f"{workspace.config_file}: this workspace is in no fleet with a store; set `fleet: {{store: …}}`"
        )
    return asyncio.run(_resume(workspace, settings, by, reason))


async def _resume(workspace: Workspace, settings: FleetSettings, by: str, reason: str) -> str:
    key = _key(workspace, settings)
    vault = LiveVault(Vault(workspace, workspace.config().vault.key), os.environ)
    async with Link(settings, base=workspace.root, secrets=vault) as link:
        before = await link.run(lambda redis: redis.hget(UseNames(settings.name).ledger, "generation")) or b""
        generation = await begin_count(link, settings.name, key, before=before, by=by, reason=reason)
    if not generation:
        raise FleetError("somebody else has resumed the count a moment ago; look at the log of `serve`")
    return generation


def _key(workspace: Workspace, settings: FleetSettings) -> SigningKey:
    """The approver's, or where there is none that of who publishes. Raises StoreError."""
    if not approver_key_file(workspace).exists():
        with contextlib.suppress(StoreError):  # then what is missing is the approver's
            key = signing_key(workspace, settings.key, os.environ)
            if key.public in settings.trust:
                return key
    return approver_key(workspace, settings)


async def begin_count(link: Link, fleet: str, key: SigningKey, *, before: bytes | str, by: str, reason: str) -> str:
    """Begins a count in the place of that of the generation `before` (b"" for none); "" where it is another by now.

    Raises StoreAwayError.
    """
    names, generation = UseNames(fleet), secrets.token_hex(8)
    seconds, microseconds = await link.run(lambda redis: redis.time())
    word = LeaseResumption(fleet, generation, seconds + microseconds / 1e6, by, reason)
    keys, sealed = (names.ledger, names.members), seal_resumption(word, key)
    told = (before, generation, sealed, str(SETTLE_MILLISECONDS))
    return generation if await link.run(lambda redis: redis.eval(RESUME, len(keys), *keys, *told)) else ""
