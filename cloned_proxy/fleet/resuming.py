"""What `fleet resume` does: it begins the count of uses anew, with the signed word that replicas want for that."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import Any

from cloned_proxy.fleet.deciding import approver_key
from cloned_proxy.fleet.errors import FleetError
from cloned_proxy.fleet.libraries import need_libraries
from cloned_proxy.fleet.link import Link
from cloned_proxy.fleet.resumption import Resumption, seal_resumption
from cloned_proxy.fleet.use_names import UseNames
from cloned_proxy.fleet.use_scripts import RESUME
from cloned_proxy.fleet.uses import SETTLE_MILLISECONDS
from cloned_proxy.store.fleet_settings import FleetSettings
from cloned_proxy.store.live_vault import LiveVault
from cloned_proxy.store.vault import Vault
from cloned_proxy.store.workspace import Workspace


def resume_uses(workspace: Workspace, *, by: str, reason: str) -> str:
    """The generation of the new count. Blocks. Raises StoreError: nothing has changed then.

    What replicas know from their own disks stays taken; what only lost ones knew is forgotten.
    """
    settings = workspace.config().fleet
    if settings is None or settings.store is None:
        raise FleetError(
            f"{workspace.config_file}: this workspace is in no fleet with a store; set `fleet: {{store: …}}`"
        )
    need_libraries()
    return asyncio.run(_resume(workspace, settings, by, reason))


async def _resume(workspace: Workspace, settings: FleetSettings, by: str, reason: str) -> str:
    key = approver_key(workspace, settings)
    vault = LiveVault(Vault(workspace, workspace.config().vault.key), os.environ)
    names, generation = UseNames(settings.name), secrets.token_hex(8)
    async with Link(settings, base=workspace.root, secrets=vault) as link:
        seconds, microseconds = await link.run(lambda redis: redis.time())
        word = Resumption(settings.name, generation, seconds + microseconds / 1e6, by, reason)
        keys = (names.ledger, names.members, names.waiting)
        sealed = seal_resumption(word, key)

        async def work(redis: Any) -> int:
            before = await redis.hget(names.ledger, "generation") or b""
            done: int = await redis.eval(RESUME, 3, *keys, before, generation, sealed, str(SETTLE_MILLISECONDS))
            return done

        if not await link.run(work):
            raise FleetError("somebody else has resumed the count a moment ago; look at the log of `serve`")
    return generation
