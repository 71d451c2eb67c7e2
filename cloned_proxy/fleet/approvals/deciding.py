"""The moment of a decision at which the store is asked: this machine's approver key signs it, and it stands or not."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from cloned_proxy.fleet.approvals.approval_service import Wanted, approver_key_file
from cloned_proxy.fleet.approvals.decision import (
    LONGEST_SECONDS,
    SKEW_SECONDS,
    FleetDecision,
    read_decision,
    seal_decision,
)
from cloned_proxy.fleet.approvals.request_store import (
    DECIDE,
    MOST_ANSWERED,
    MOST_BYTES,
    READ,
    READ_BOUNDS,
    RequestNames,
)
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.members.member import replica_key, replica_name
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.fleet.signed.keys import SigningKey, load_key
from cloned_proxy.store.approvals.approval_errors import NeverAllowedError, UnknownApprovalError
from cloned_proxy.store.approvals.approval_rules import checked, key_of
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace

_AFTERWARDS: int = 86_400_000
"""Milliseconds that the store keeps a decision after its end: a replica that was away hears what became of it."""


def decide_in_store(workspace: Workspace, settings: FleetSettings, wanted: Wanted) -> tuple[FleetDecision, bool]:
    """The decision that stands, and whether it is this one. Blocks. Raises StoreError: nothing is decided then."""
    key = approver_key(workspace, settings)
    if wanted.seconds > LONGEST_SECONDS:
        raise NeverAllowedError("an approval of a fleet lasts 30 days at most; what is to stay is published")
    return asyncio.run(_decide(workspace, settings, wanted, key))


def approver_key(workspace: Workspace, settings: FleetSettings) -> SigningKey:
    """The key that signs decisions here. Raises StoreError when there is none, or nobody would accept it."""
    missing = "; run `cloned-proxy approvals key` here, and name what it prints in `fleet.approvers` of every replica"
    key = load_key(approver_key_file(workspace), missing=missing)
    if key.public not in (*settings.approvers, *settings.trust):
        raise FleetError(
            f"{approver_key_file(workspace)}: this key may not decide; add {key.public} to `fleet.approvers` of every "
            "replica"
        )
    return key


async def _decide(
    workspace: Workspace, settings: FleetSettings, wanted: Wanted, key: SigningKey
) -> tuple[FleetDecision, bool]:
    vault = LiveVault(Vault(workspace, workspace.config().vault.key), os.environ)
    async with Link(settings, base=workspace.root, secrets=vault) as link:
        replica = replica_name(settings, replica_key(workspace))
        decision = _decision(wanted, settings.name, replica, await _agreed_time(link))
        envelope = seal_decision(decision, key)
        if len(envelope) > MOST_BYTES:
            raise NeverAllowedError(f"a decision has {MOST_BYTES} bytes at most; decide on less at once")
        stands = await _put(link, RequestNames(settings.name), wanted, envelope)
    if not stands:
        raise UnknownApprovalError(
            f"the fleet does not know request {decision.request} any more; its time is over, or it was lost"
        )
    if stands == envelope:
        return decision, True
    trust = Trust([*settings.trust, *settings.approvers])
    return read_decision(stands, trust, settings.name, decision.request), False


async def _agreed_time(link: Link) -> float:
    """The store's Unix seconds. Raises FleetError where they are not those of this machine."""
    seconds, microseconds = await link.run(lambda redis: redis.time())
    now = float(seconds + microseconds / 1e6)
    apart = abs(now - time.time())
    if apart > SKEW_SECONDS:
        # Signed by a time far ahead, an approval could be offered again for as long.
        raise FleetError(
            f"the clock of the store and the one here differ by {apart / 3600:.1f} hours, so nothing "
            "is decided; set them by NTP"
        )
    return now


def _decision(wanted: Wanted, fleet: str, replica: str, now: float) -> FleetDecision:
    approval = wanted.approval
    return FleetDecision(
        fleet=fleet,
        request=approval.id,
        about=key_of(approval.asker, approval.origin, checked(approval.proposal)[1]),
        verdict=wanted.verdict,
        asker=approval.asker,
        tool=approval.tool,
        action=approval.action,
        entries=wanted.entries,
        uses=wanted.uses,
        decided=now,
        ends=now + wanted.seconds,
        by=wanted.by,
        replica=replica,
        reason=wanted.reason,
    )


async def _put(link: Link, names: RequestNames, wanted: Wanted, envelope: bytes) -> bytes:
    """The envelope that stands in the store: this one, an earlier one, or b"" where the request is not known."""
    request = wanted.approval.id
    told = (request, envelope, str(int(wanted.seconds * 1000) + _AFTERWARDS), names.news)

    async def work(redis: Any) -> bytes:
        answer: bytes = await redis.eval(DECIDE, 3, *names.keys, *told)
        return answer

    stands = await link.run(work)
    if stands == envelope:
        await _read_back(link, names, request, envelope)
    return stands


async def _read_back(link: Link, names: RequestNames, request: str, envelope: bytes) -> None:
    """Reads as every replica does. Raises StoreError where they do not hear of the decision."""

    async def work(redis: Any) -> list[Any]:
        answer: list[Any] = await redis.eval(READ, 3, *names.keys, *READ_BOUNDS)
        return answer

    _, _, *found = await link.run(work, most=MOST_ANSWERED)
    if (request.encode(), envelope) not in zip(found[0::4], found[3::4], strict=True):
        raise FleetError(
            f"the decision on {request} is in the store, and no replica can read it there: too much lies in "
            f"{names.requests}, or the store lies; it is in force nowhere yet"
        )
