"""Deciding in a fleet: a yes or a no is signed on this machine, and the store lets one decision stand.

For commands and for the control UI, which checks that who decides has paired a device; the key stays here. The policy
file is not edited: what is approved is in force beside the signed policy of the fleet, everywhere, until it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cloned_proxy.fleet.link.libraries import need_libraries
from cloned_proxy.store.approvals.approval import Approval, ApprovalState
from cloned_proxy.store.approvals.approval_errors import DecidedError
from cloned_proxy.store.approvals.approval_table import Intent
from cloned_proxy.store.approvals.approvals import ApprovalService, Granted, Yes
from cloned_proxy.store.files.errors import ConflictError
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.fleet.approvals.decision import FleetDecision

type Verdict = Literal["approved", "rejected"]

_MATTERS_SECONDS: Final = 86_400.0
"""For how long the store knows of a no: replicas that were away hear it when they are back."""
DEFAULT_SECONDS: Final = 86_400.0
"""How long an approval is in force for which nobody said it. What is to stay is published."""


def approvals_of(workspace: Workspace, policy_file: Path | None = None, **options: Any) -> ApprovalService:
    """The requests of this workspace: decided for the whole fleet where there is one. Raises StoreError."""
    settings = workspace.config().fleet
    if settings is None or settings.store is None:
        return ApprovalService(workspace, policy_file, **options)
    return FleetApprovals(workspace, settings, policy_file, **options)


def approver_key_file(workspace: Workspace) -> Path:
    """Where this workspace keeps the key that signs decisions."""
    return workspace.root / "fleet" / "approver.key"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A decision that somebody has made, and that does not stand yet."""

    approval: Approval
    verdict: Verdict
    entries: tuple[Entry, ...]
    uses: int | None
    seconds: float
    """From the decision on."""
    by: str
    reason: str


class FleetApprovals(ApprovalService):
    """As in a single workspace, but that a decision is the fleet's."""

    def __init__(
        self,
        workspace: Workspace,
        fleet: FleetSettings,
        policy_file: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(workspace, policy_file, **options)
        self._workspace = workspace
        self._fleet = fleet

    def _grant(self, approval: Approval, yes: Yes) -> Granted:
        seconds = yes.for_seconds if yes.for_seconds is not None else approval.for_seconds
        addition = self._addition(approval, replace(yes, for_seconds=seconds or DEFAULT_SECONDS))
        if yes.expected_version not in {None, self.evidence(approval.id).policy_version}:
            raise ConflictError(f"request {approval.id}: another policy is in force since you looked; look again")
        decision = self._decide(approval, "approved", addition.entries, yes.actor, yes.reason)
        rules = tuple(rule.id for rule in decision.rules())
        intent = Intent("", yes.actor, yes.reason, rules, str(addition))
        with contextlib.suppress(DecidedError):  # `serve` may have heard of it already, and has written it down
            return Granted(self._ledger.approve(approval, intent), addition, "", changed=True)
        return Granted(self.get(approval.id), addition, "", changed=True)

    def _refuse(self, approval: Approval, actor: str, reason: str) -> Approval:
        self._decide(approval, "rejected", approval.entries, actor, reason)
        with contextlib.suppress(DecidedError):  # as above
            return self._ledger.reject(approval, actor=actor, reason=reason)
        return self.get(approval.id)

    def _decide(
        self, approval: Approval, verdict: Verdict, entries: Sequence[Entry], actor: str, reason: str
    ) -> FleetDecision:
        """Has the store let this decision stand. Raises DecidedError when another one was faster, and StoreError."""
        need_libraries()
        from cloned_proxy.fleet.approvals.deciding import decide_in_store  # noqa: PLC0415  with them, and slow

        now = self._clock()
        seconds = max((each.expires - now for each in entries if each.expires is not None), default=_MATTERS_SECONDS)
        plain = tuple(replace(entry, expires=None, max_uses=None, reason="") for entry in entries)
        uses = next((each.max_uses for each in entries if each.max_uses is not None), None)
        wanted = Wanted(approval, verdict, plain, uses, seconds, actor, reason)
        decision, mine = decide_in_store(self._workspace, self._fleet, wanted)
        if not mine:
            state: ApprovalState = decision.verdict
            by = f"{decision.by}@{decision.replica}"
            raise DecidedError(replace(approval, state=state, decided_by=by, decided_at=decision.decided))
        return decision
