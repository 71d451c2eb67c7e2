"""What a change of the policy means for the rest of the process: caches, leases, open tunnels, metrics, the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from cloned_proxy.policy.model.changes import changes
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.proxy.enforce.granted_policies import GrantedPolicies
from cloned_proxy.proxy.upstream.resolver import Resolver
from cloned_proxy.store.audit.policy_history import PolicySnapshot, PolicyVersion
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.live_policy import LivePolicy
from cloned_proxy.store.workspaces.presets import SHIPPED, PresetShelf
from cloned_proxy.telemetry.events import AuditUnavailableError, PolicyEvent
from cloned_proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from cloned_proxy.fleet.signed_policy.replica import FleetPolicy

_log = structlog.get_logger(__name__)


class PolicyFollower:
    """The live policy of one process, and everything that follows it."""

    def __init__(
        self,
        path: Path,
        *,
        state: State,
        metrics: Metrics,
        resolver: Resolver,
        clock: Callable[[], float],
        presets: PresetShelf = SHIPPED,
        leads: bool = True,
        fleet: FleetPolicy | None = None,
    ) -> None:
        """One of several workers `leads`: a change of the file is recorded and counted once.

        In a `fleet` its policy is followed instead of the file.
        """
        self._leads = leads
        self._state = state
        self._metrics = metrics
        self._resolver = resolver
        self._clock = clock
        self._sweep: Callable[[], None] = lambda: None
        self._before: Policy | None = None
        self.policies: Final = GrantedPolicies(lambda: self.live.current)
        """What is decided by: the live policy, with what is granted beside it."""
        self.live: LivePolicy | FleetPolicy = fleet or LivePolicy(path, presets=presets, clock=clock)
        self.live.on_change, self.live.on_reject = self._changed, self._rejected
        if fleet is not None:
            fleet.on_denying = self._cut

    async def start(self, sweep: Callable[[], None]) -> None:
        """Loads the policy; `sweep` cuts what a later one no longer lets pass. Raises what is wrong with the file."""
        await self.live.start()
        if isinstance(self.live, LivePolicy) and self.live.current is None:
            await self.live.stop()
            raise self.live.last_error or StoreError(f"{self.live.path}: no policy was loaded; see the log")
        self._sweep = sweep

    async def stop(self) -> None:
        await self.live.stop()

    def problems(self) -> tuple[str, ...]:
        """Why the policy in force is not the one that the file asks for."""
        if not isinstance(self.live, LivePolicy):
            return self.live.problems()
        if self.live.current is None:
            return ("no valid policy was ever loaded",)
        error = self.live.last_error
        return () if error is None else tuple(str(error).splitlines())

    def _cut(self) -> None:
        """Everything is denied from now on: what is open goes."""
        self._sweep()

    def grant(self, rules: tuple[Rule, ...]) -> None:
        """Puts these rules beside the policy in force, in place of those before; cuts what no longer passes."""
        self.policies.granted = rules
        if (acting := self.policies.current) is not None:
            self._resolver.forget()
            self._follow_rules(acting)
            self._sweep()

    def _follow_rules(self, acting: Policy) -> None:
        self._metrics.know_tools(acting.tools)
        self._metrics.leases.know({rule.id: rule.expires for rule in acting.rules if rule.expires is not None})
        try:
            self._state.leases.keep(acting.rules, forget=self._leads)
        except AuditUnavailableError as error:
            _log.warning("uses of rules that are gone stay counted", reason=str(error))

    def _changed(self, policy: Policy) -> None:
        self._resolver.forget()
        self._metrics.policy_loaded(rules=len(policy.rules), at=self._clock(), counts=self._leads)
        self._follow_rules(self.policies.with_granted(policy))
        try:
            self._sweep()
        finally:  # whatever it stumbled over, the change is on record
            summary = f"{policy.source}: mode {policy.mode}, rules: {len(policy.rules)}"
            if policy.presets:  # the version is the file's own, and says nothing about what a preset says
                used = ", ".join(f"{name} {version}" for name, version in sorted(policy.presets.items()))
                summary += f", presets: {used}"
            self._record("reload", summary, policy.version)
            self._remember(policy)
            self._before = policy

    def _rejected(self, error: PolicyError | StoreError) -> None:
        self._metrics.policy_rejected(counts=self._leads)
        kept = self.live.current.version if self.live.current is not None else ""
        self._record("reject", str(error), kept)

    def _remember(self, policy: Policy) -> None:
        """Into the history, so that a change by hand can be rolled back like any other. An edit of ours is there."""
        if not self._leads:
            return
        if self._before is not None:
            summary = f"edited by hand: {changes(self._before, policy)}"
        else:
            summary = f"found when serving began: {len(policy.rules)} rules, mode {policy.mode}"
        version = PolicyVersion(policy.version, self._clock(), "file", "", summary)
        try:
            self._state.audit.remember(PolicySnapshot(version, policy.source, self.live.raw, policy.rules))
        except AuditUnavailableError as error:
            _log.warning("a version of the policy is missing in its history", reason=str(error))

    def _record(self, action: str, summary: str, version: str) -> None:
        if not self._leads:
            return
        try:
            self._state.audit.record(PolicyEvent(self._clock(), action, "file", summary, "", version))
        except AuditUnavailableError:
            self._metrics.audit_dropped()
