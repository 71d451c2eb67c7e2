"""Requests for other rules: a tool asks, a person decides, the policy changes only then.

Who approves holds a lock of the workspace. The yes is written down first as an intent, then the policy file is edited,
then the request is settled: after a crash in between, the file itself tells whether the edit had happened. A request
that nobody decides in time ends; the policy file is not touched for that.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.store.approvals import approval_table as table
from cloned_proxy.store.approvals.approval import Approval, ApprovalState, Origin, Proposal
from cloned_proxy.store.approvals.approval_errors import (
    InForceError,
    NeverAllowedError,
    RejectedError,
    TooManyRequestsError,
)
from cloned_proxy.store.approvals.approval_ledger import ApprovalLedger
from cloned_proxy.store.approvals.approval_rules import check_permission, checked, in_force, key_of
from cloned_proxy.store.approvals.approval_table import Intent
from cloned_proxy.store.approvals.evidence import MAX_NARROWEST, Evidence, weigh
from cloned_proxy.store.audit.tally import Tally
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.leases import deadline
from cloned_proxy.store.leases.deadline import Deadline
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.policyfile.policy_entry import Addition
from cloned_proxy.store.policyfile.policy_file import load_policy, policy_from_bytes
from cloned_proxy.store.settings.config import ApprovalSettings
from cloned_proxy.store.workspaces.workspace import Workspace

type Choice = Literal["proposed", "narrowest"]

_EVIDENCE_SECONDS: Final = 7 * 86_400.0
_MINUTE: Final = 60.0
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Granted:
    """An approval that is in the policy file."""

    approval: Approval
    addition: Addition
    """What was added, with its terms."""
    version: str
    """Version of the policy behind the approval."""
    changed: bool
    """False when the policy said so already."""


@dataclass(frozen=True, slots=True)
class Yes:
    """What the reviewer said: the arguments of `ApprovalService.approve`."""

    actor: str
    choice: Choice
    for_seconds: float | None
    uses: int | None
    reason: str
    expected_version: str | None
    seen: str | None
    update_tests: bool


class ApprovalService:
    """For every process of a workspace: commands, the control API and the proxy. Blocks on disk; thread-safe.

    Methods raise ApprovalError for what cannot be, and StoreError for a database or a policy file that cannot be
    used; nothing has changed then.
    """

    def __init__(
        self,
        workspace: Workspace,
        policy_file: Path | None = None,
        *,
        settings: ApprovalSettings | None = None,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = deadline.uptime,
    ) -> None:
        """`settings` None reads config.yaml; `clock` gives Unix seconds, `uptime` seconds since boot."""
        self._path = workspace.state_db
        self._ledger = ApprovalLedger(workspace.state_db, clock, uptime)
        self._lock = workspace.root / "approvals"
        self._edits = EditService(workspace, policy_file, clock=clock)
        self._policy_file = self._edits.path
        self._presets = workspace.presets
        self._settings = workspace.config().approvals if settings is None else settings
        self._clock = clock
        self._uptime = uptime

    # Asking.

    def ask(
        self,
        asker: str,
        proposal: Proposal,
        *,
        policy: Policy | None = None,
        origin: Origin = "tool",
        run: str | None = None,
        count: int = 1,
    ) -> Approval:
        """Opens a request, or raises the count of the same one that is pending. The policy is not touched.

        `policy` None reads the file; `count` is how many denied calls this stands for. Raises NotAllowedToAskError,
        NeverAllowedError, TooManyRequestsError, PolicyError, StoreError.
        """
        if policy is None:
            policy = load_policy(self._policy_file, self._clock(), self._presets)
        proposal, rules = checked(proposal)
        if origin != "host":
            check_permission(policy, asker, proposal)
        if in_force(policy, proposal, rules):
            raise InForceError("the policy says so already, without an end; nothing has to be asked")
        key = key_of(asker, origin, rules)
        with self._ledger.writing() as database:
            self._ledger.expire_due(database)
            # One of another replica is only told here, by a store that may tell it to nobody else.
            table.give_way(database, key)
            if (known := table.pending_with(database, key)) is not None:
                table.raise_count(database, known.approval.id, count)
                return replace(known.approval, denied_count=known.approval.denied_count + count)
            now, up = self._clock(), self._uptime()
            if origin == "denied" and table.rejected_since(database, key, now - self._settings.timeout):
                raise RejectedError(f"{asker}: the same was rejected a moment ago")
            self._check_room(database, asker, now)
            ends = Deadline.after(self._settings.timeout, now=now, up=up)
            approval = Approval(
                id=f"a-{secrets.token_hex(5)}",
                created=now,
                expires=ends.wall,
                asker=asker,
                proposal=proposal,
                origin=origin,
                run=run,
                state="pending",
                decided_by="",
                decided_at=None,
                decided_reason="",
                denied_count=count,
                policy_version=policy.version,
                rule_ids=(),
            )
            table.insert(database, approval, key, ends)
            actor = asker if origin == "host" else f"tool:{asker}"
            self._ledger.record(database, approval, "asked", actor=actor, why=proposal.reason, version=policy.version)
        return approval

    def follow(self, ids: Sequence[str], more: Mapping[str, int]) -> dict[str, ApprovalState]:
        """The states of requests; `more` calls of some met the same denial meanwhile."""
        if more:
            with self._ledger.writing() as database:
                for approval_id, by in more.items():
                    table.raise_count(database, approval_id, by)
        return self._ledger.states(ids)

    def _check_room(self, database: sqlite3.Connection, asker: str, now: float) -> None:
        settings = self._settings
        recent = table.asked_since(database, asker, now - _MINUTE)
        if len(recent) >= settings.requests_per_minute:
            wait = max(1, math.ceil(recent[-settings.requests_per_minute] + _MINUTE - now))
            raise TooManyRequestsError(
                f"{asker} has made {len(recent)} requests within a minute; try again in {wait} s", wait
            )
        # Others' requests take no room from those of this machine.
        pending = [row.approval for row in table.rows(database, pending=True, own=True, limit=settings.pending + 1)]
        own = sum(approval.asker == asker for approval in pending)
        if own >= settings.pending_per_tool or len(pending) >= settings.pending:
            whose = f"{own} requests of {asker}" if own >= settings.pending_per_tool else f"{len(pending)} requests"
            soonest = max(1, math.ceil(min(approval.expires for approval in pending) - now))
            raise TooManyRequestsError(f"{whose} wait for a person already", soonest)

    # Looking.

    def get(self, approval_id: str) -> Approval:
        """Raises UnknownApprovalError."""
        return self._ledger.get(approval_id)

    def evidence(self, approval_id: str) -> Evidence:
        """What is on record about the request. Raises UnknownApprovalError."""
        now = self._clock()
        approval = self.get(approval_id)
        policy = load_policy(self._policy_file, now, self._presets)
        since = now - _EVIDENCE_SECONDS
        with Tally(self._path) as tally:
            return weigh(approval, tally, policy, since=since, now=now)

    # Deciding.

    def approve(
        self,
        approval_id: str,
        *,
        actor: str,
        choice: Choice = "proposed",
        for_seconds: float | None = None,
        uses: int | None = None,
        reason: str = "",
        expected_version: str | None = None,
        seen: str | None = None,
        update_tests: bool = False,
    ) -> Granted:
        """Puts the rules into the policy file and settles the request.

        `for_seconds` and `uses` None take what was asked for. `expected_version` is the policy that the reviewer has
        seen and `seen` the digest of the evidence: a difference raises ConflictError, and the request stays pending.
        Raises UnknownApprovalError, DecidedError, NeverAllowedError, PolicyError, StoreError.
        """
        yes = Yes(actor, choice, for_seconds, uses, redact(reason), expected_version, seen, update_tests)
        with locked(self._lock):
            self._recover()
            return self._grant(self._ledger.open_request(approval_id), yes)

    def _grant(self, approval: Approval, yes: Yes) -> Granted:
        try:
            addition = self._addition(approval, yes)
            planned = self._edit(approval, addition, yes, dry_run=True)
            intent = Intent(planned.version, yes.actor, yes.reason, planned.rule_ids, str(addition))
            self._ledger.begin(approval, intent)
            result = self._edit(approval, addition, yes, dry_run=False)
        except ConflictError:
            self._ledger.take_back(approval, conflict_with=yes.actor)
            raise
        except BaseException:
            self._ledger.take_back(approval)
            raise
        decided = self._ledger.approve(approval, replace(intent, version=result.version))
        return Granted(decided, addition, result.version, result.changed)

    def reject(self, approval_id: str, *, actor: str, reason: str = "") -> Approval:
        """Says no; the policy is not touched. Raises UnknownApprovalError, DecidedError, StoreError."""
        with locked(self._lock):
            self._recover()
            return self._refuse(self._ledger.open_request(approval_id), actor, redact(reason))

    def _refuse(self, approval: Approval, actor: str, reason: str) -> Approval:
        return self._ledger.reject(approval, actor=actor, reason=reason)

    def expire(self) -> int:
        """Ends what nobody decided in time, and settles what a crash left half-decided; how many ended.

        `serve` calls it each second. A decision under way in another process is left alone.
        """
        if self._ledger.begun():
            with contextlib.suppress(StoreError), locked(self._lock, seconds=0):
                self._recover()
        if not self._ledger.any_due():
            return 0
        with self._ledger.writing() as database:
            table.forget_decided(database, before=self._clock() - self._settings.history_days * _DAY)
            return self._ledger.expire_due(database)

    def _addition(self, approval: Approval, yes: Yes) -> Addition:
        proposal = approval.proposal
        if yes.choice == "narrowest" or yes.seen is not None:
            evidence = self.evidence(approval.id)
            if yes.seen is not None and yes.seen != evidence.digest:
                raise ConflictError(f"request {approval.id}: more was denied since you looked; look again")
            if yes.choice == "narrowest":
                if not evidence.narrowest:
                    raise NeverAllowedError(f"request {approval.id}: nothing was denied, so nothing is narrower")
                proposal = replace(proposal, entries=evidence.narrowest)
        seconds = proposal.for_seconds if yes.for_seconds is None else yes.for_seconds
        proposal = replace(proposal, for_seconds=seconds, uses=proposal.uses if yes.uses is None else yes.uses)
        checked(proposal, most=MAX_NARROWEST)
        said = yes.reason or proposal.reason
        why = f"request {approval.id}: {said}" if said else f"request {approval.id}"
        expires = None if seconds is None else self._clock() + seconds
        entries = (replace(entry, expires=expires, max_uses=proposal.uses, reason=why) for entry in proposal.entries)
        return Addition(tuple(entries), proposal.tool, proposal.action)

    def _edit(self, approval: Approval, addition: Addition, yes: Yes, *, dry_run: bool) -> EditResult:
        return self._edits.add(
            [addition],
            actor=yes.actor,
            why=f"request {approval.id}" + (f": {yes.reason}" if yes.reason else ""),
            expected_version=yes.expected_version,
            dry_run=dry_run,
            update_tests=yes.update_tests,
        )

    def _recover(self) -> None:
        """Settles requests whose approval a crash cut off, under the lock. The file says what had happened."""
        for approval, intent in self._ledger.begun():
            if self._has(intent):
                self._ledger.approve(approval, intent)
            else:
                self._ledger.take_back(approval)

    def _has(self, intent: Intent) -> bool:
        raw = read_policy_bytes(self._policy_file)
        if version_of(raw) == intent.version:
            return True
        if any(known.version == intent.version for known in self._edits.history()):
            return True
        # Edited once more since, unseen. A rule that was there before the yes counts, too: it is what the yes was for.
        policy = policy_from_bytes(raw, source=str(self._policy_file), now=self._clock(), presets=self._presets)
        return set(intent.rules) <= {rule.id for rule in policy.rules}

    def list(self, state: ApprovalState | None = None, *, limit: int = 1000) -> list[Approval]:
        """The newest first; of one state, or all."""
        found = self._ledger.newest(pending=state == "pending", limit=limit)
        return [approval for approval in found if state is None or approval.state == state]
