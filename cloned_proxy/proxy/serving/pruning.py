"""Leases that ended a day ago leave the policy file by themselves, as an edit on record in the program's own name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.workspaces.workspace import Workspace

_log = structlog.get_logger(__name__)

AFTER: Final = 86_400.0
"""Seconds for which an ended lease stays, so that somebody who looks next morning still sees it, and can renew it."""
_LOOK_SECONDS: Final = 600.0
_ACTOR: Final = "clock"


class LeasePruner:
    """For one process of a workspace, on its event loop; the file is edited in a thread."""

    def __init__(
        self, workspace: Workspace, policy_file: Path, *, policies: PolicySource, clock: Callable[[], float]
    ) -> None:
        self._service = EditService(workspace, policy_file, clock=clock)
        self._policies = policies
        self._clock = clock
        self._refused = ""
        """The version of the policy that could not be pruned: it is not tried again before another is in force."""

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Prunes what is due. Never raises but for cancellation: a file that cannot be edited stays as it is."""
        policy = self._policies.current
        if policy is None or policy.version == self._refused or not self._may_be_due(policy):
            return
        why = "it ended over a day ago"
        try:
            result = await asyncio.to_thread(
                self._service.prune, actor=_ACTOR, why=why, after=AFTER, by_itself=True, dry_run=False
            )
        except (PolicyError, StoreError) as error:
            self._refused = policy.version
            _log.warning("leases that have ended stay in the policy file", reason=str(error).partition("\n")[0])
            return
        except Exception:  # noqa: BLE001  tidying up must not end with one fault, and stops nobody's traffic
            self._refused = policy.version
            _log.exception("leases that have ended stay in the policy file")
            return
        if result.changed:
            _log.info("leases that ended a day ago left the policy file", rules=len(result.gone))

    def _may_be_due(self, policy: Policy) -> bool:
        """Seen without the database: most policies have no such lease, and nothing more is looked at then."""
        return any(not rule.denies and rule.is_lease and self._may_be_over(rule) for rule in policy.rules)

    def _may_be_over(self, rule: Rule) -> bool:
        return rule.max_uses is not None or (rule.expires is not None and self._clock() - rule.expires >= AFTER)
