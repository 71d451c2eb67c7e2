"""How a count of uses begins, with the signed word that replicas want for that; `fleet resume` begins one anew."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import time
from typing import Any, Final

from cloned_proxy.fleet.approvals.approval_service import approver_key_file
from cloned_proxy.fleet.approvals.deciding import approver_key
from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS
from cloned_proxy.fleet.leases.resumption import LeaseResumption, read_resumption, seal_resumption
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.leases.use_scripts import RESUME
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.members.roster import everybody
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.signing import signing_key
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace

SETTLE_MILLISECONDS: Final = 10_000
"""Nobody takes a use so long after a count began: what replicas know from their own disks is heard first."""
_FOLLOW_SECONDS: Final = 10.0
"""For so long it is awaited that the replicas which are live follow; they look every two seconds."""
_LOOK_SECONDS: Final = 0.1
_MOST_WORDS: Final = 3
"""Each later than what is followed, where somebody else signs at the same time."""


def resume_uses(workspace: Workspace, *, by: str, reason: str) -> LeaseResumption:
    """The new count, as it was signed, which every replica that is live follows. Blocks. Raises StoreError.

    What replicas know from their own disks stays taken; what only lost ones knew is forgotten.
    """
    settings = workspace.config().fleet
    if settings is None or settings.store is None:
        raise FleetError(
            f"{workspace.config_file}: this workspace is in no fleet with a store; set `fleet: {{store: …}}`"
        )
    return asyncio.run(_resume(workspace, settings, by, reason))


async def _resume(workspace: Workspace, settings: FleetSettings, by: str, reason: str) -> LeaseResumption:
    key = _key(workspace, settings)
    vault = LiveVault(Vault(workspace, workspace.config().vault.key), os.environ)
    ledger, trust = UseNames(settings.name).ledger, Trust(dict.fromkeys((*settings.trust, *settings.approvers)))
    async with Link(settings, base=workspace.root, secrets=vault) as link:
        latest, ends, words = 0.0, time.monotonic() + _FOLLOW_SECONDS, 0
        word: LeaseResumption | None = None
        while True:
            found: list[Any] = await link.run(lambda redis: redis.hmget(ledger, "generation", "resume", "followed"))
            latest = max(latest, *(_at(raw, trust, settings.name) for raw in found[1:]))
            if word is None or word.at < latest:
                if words == _MOST_WORDS:
                    raise FleetError(
                        f"{words} new counts were signed, and each was older by then than one that somebody else has "
                        "begun; look who does (the log of `serve` names them), and at the clocks"
                    )
                words += 1
                # A replica follows a word that was signed by a clock ahead: none of before its time counts there.
                word = await begin_count(
                    link, settings.name, key, before=found[0] or b"", by=by, reason=reason, after=latest
                )
                if word is None:
                    raise FleetError("somebody else has resumed the count a moment ago; look at the log of `serve`")
                ends = time.monotonic() + _FOLLOW_SECONDS
            elif not (missing := await _not_following(link, settings.name)):
                return word
            elif time.monotonic() >= ends:
                raise FleetError(
                    f"the new count is signed, and not followed by {', '.join(sorted(missing))}: no lease with "
                    "`max_uses` is given there; look at the log of `serve` there "
                    "(its clock, `fleet.trust`, `fleet.approvers`)"
                )
            await asyncio.sleep(_LOOK_SECONDS)


async def _not_following(link: Link, fleet: str) -> set[str]:
    """Replicas that are live, and have not told the count what they took."""
    live = {each.report.replica for each in await everybody(link, Names(fleet)) if each.live}
    members: Any = await link.run(lambda redis: redis.smembers(UseNames(fleet).members))
    return live - {each.decode(errors="replace") for each in members}


def _at(raw: bytes | None, trust: Trust, fleet: str) -> float:
    """When the count of this word began; 0.0 for what is no word of anybody who may say so, or no replica follows."""
    try:
        word = read_resumption(raw, trust, fleet) if raw else None
    except EnvelopeError:
        return 0.0
    return word.at if word is not None and word.is_possible(time.time()) else 0.0


def _key(workspace: Workspace, settings: FleetSettings) -> SigningKey:
    """The approver's, or where there is none that of who publishes. Raises StoreError."""
    if not approver_key_file(workspace).exists():
        with contextlib.suppress(StoreError):  # then what is missing is the approver's
            key = signing_key(workspace, settings.key, os.environ)
            if key.public in settings.trust:
                return key
    return approver_key(workspace, settings)


async def begin_count(
    link: Link, fleet: str, key: SigningKey, *, before: bytes | str, by: str, reason: str, after: float = 0.0
) -> LeaseResumption | None:
    """Begins a count in the place of that of the generation `before` (b"" for none); None where it is another by now.

    It is later than `after` (Unix seconds). Raises StoreAwayError, and FleetError where the store's clock is not ours.
    """
    names, generation = UseNames(fleet), secrets.token_hex(8)
    seconds, microseconds = await link.run(lambda redis: redis.time())
    apart = seconds - time.time()
    if abs(apart) > SKEW_SECONDS:
        # Signed by a time far ahead, the word would be followed for ever, and none after it.
        raise FleetError(
            f"the clock of the store and the one here differ by {abs(apart) / 3600:.1f} hours, so no count is begun; "
            "set them by NTP"
        )
    at = max(seconds + microseconds / 1e6, math.nextafter(after + 1, math.inf))
    word = LeaseResumption(fleet, generation, at, by, reason)
    keys, sealed = (names.ledger, names.members), seal_resumption(word, key)
    told = (before, generation, sealed, str(SETTLE_MILLISECONDS))
    return word if await link.run(lambda redis: redis.eval(RESUME, len(keys), *keys, *told)) else None
