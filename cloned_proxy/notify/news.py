"""What is new in the log and worth a notice: once for each tool, host and port in a period, and never too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cloned_proxy.notify.notice import Notice
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import HostPattern, Rule
from cloned_proxy.policy.terms.vocabulary import Anonymous, OnDeny, Reason
from cloned_proxy.store.approvals.approval_table import find
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.database import reading
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import signature_of
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.settings.notify_settings import NotifySettings
from cloned_proxy.store.workspaces.presets import PresetShelf
from cloned_proxy.telemetry.events import MANY

_MAX_KNOWN: Final = 10_000
"""Tool, host and port triples that are remembered; the oldest go first."""
_MINUTE: Final = 60.0
_DECIDED: Final = frozenset({"approved", "rejected", "expired"})
_ANONYMOUS: Final = "a caller without a name"


@dataclass(slots=True)
class _Bound:
    """What was told within the minute, and how many were not since the last one that was."""

    sent: list[float] = field(default_factory=list)
    untold: int = 0


class NewsReader:
    """Reads the log forward from where it began. Called from one thread."""

    def __init__(
        self,
        state_db: Path,
        policy_file: Path,
        presets: PresetShelf,
        settings: NotifySettings,
        clock: Callable[[], float],
        *,
        after: int,
    ) -> None:
        """Begins behind the entry with the number `after`. Raises StoreError."""
        self._state_db = state_db
        self._settings = settings
        self._clock = clock
        self._told: OrderedDict[tuple[str, str, int, bool], float] = OrderedDict()
        self._sent = _Bound()
        self._alarms = _Bound()
        """For secrets on their way out: no flood of other denials hides one."""
        self._decisions = _Bound()
        self._policy = _LivePolicy(policy_file, presets, clock)
        self._at = after

    def look(self) -> list[Notice]:
        """The notices since the last look. Raises StoreError."""
        notices: list[Notice] = []
        with AuditLog(self._state_db) as log:
            head = log.newest()
            if head == self._at:
                return []
            if "denial" in self._settings.events:
                for entry in log.entries(after=self._at, types=("decision",), denied=True):
                    notices += self._denial(entry.body) if entry.seq <= head else []
            for entry in log.entries(after=self._at, types=("approval",)) if self._follows_requests else ():
                if entry.seq <= head:
                    notices += self._request(entry.body)
            self._at = head
        return notices

    @property
    def _follows_requests(self) -> bool:
        return not {"request", "decision"}.isdisjoint(self._settings.events)

    def _request(self, body: dict[str, Any]) -> list[Notice]:
        if body["action"] == "asked":
            return self._within_bounds(_asked(body), self._sent) if "request" in self._settings.events else []
        if body["action"] not in _DECIDED or "decision" not in self._settings.events or not self._is_own(body):
            return []
        return self._within_bounds(_decided(body), self._decisions)

    def _is_own(self, body: dict[str, Any]) -> bool:
        """Whether it was asked here: of a fleet, the replica on which it was asked tells people, and no other one."""
        with reading(self._state_db) as database:
            row = find(database, body["approval"])
        return row is None or not row.approval.replica

    def _denial(self, body: dict[str, Any]) -> list[Notice]:
        tool, host, port = body["tool"] or "", body["host"], body["port"]
        leak = body["reason"] == Reason.SECRET_LEAK
        now, key = self._clock(), (tool, host, port, leak)
        known = self._told.get(key)
        if known is not None and now - known < self._settings.period:
            return []
        if host == MANY:
            return []  # a count of calls like those that were told
        asks = "request" in self._settings.events
        if not leak and self._policy.is_no_news(body["tool"], host, body["reason"], asks=asks):
            return []
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > _MAX_KNOWN:
            self._told.popitem(last=False)
        found = Notice(
            "denial", body["at"], body["id"], tool or _ANONYMOUS, host, port, body["reason"], "", body["hint"]
        )
        return self._within_bounds(found, self._alarms if leak else self._sent)

    def _within_bounds(self, notice: Notice, bound: _Bound) -> list[Notice]:
        """The notice with the count of those that went untold; none while there are too many."""
        now = self._clock()
        bound.sent = [at for at in bound.sent if now - at < _MINUTE]
        if len(bound.sent) >= self._settings.per_minute:
            bound.untold += 1
            return []
        bound.sent.append(now)
        told, bound.untold = replace(notice, more=bound.untold), 0
        return [told]


def _decided(body: dict[str, Any]) -> Notice:
    tool = body["tool"] or _ANONYMOUS
    return Notice(
        "decision", body["at"], body["approval"], tool, "", 0, body["action"], body["summary"], "", by=body["actor"]
    )


def _asked(body: dict[str, Any]) -> Notice:
    tool = body["tool"] or _ANONYMOUS
    return Notice("request", body["at"], body["approval"], tool, "", 0, "", body["summary"], "")


class _LivePolicy:
    """The policy as the file says it now; the last good one while it is not valid."""

    def __init__(self, path: Path, presets: PresetShelf, clock: Callable[[], float]) -> None:
        self._path = path
        self._presets = presets
        self._clock = clock
        self._seen: object = None
        self._policy = Policy()
        self._quiet: dict[str | None, HostIndex] = {}

    def is_no_news(self, tool: str | None, host: str, reason: str, *, asks: bool) -> bool:
        """Whether a denial is harmless to a preset, a question for a credential, or told as the tool's request."""
        self._refresh()
        if reason == Reason.IDENTITY_MISSING and self._policy.anonymous is Anonymous.CHALLENGE:
            return True
        scope = self._policy.scope_of(tool)
        if asks and scope.on_deny is OnDeny.ASK:
            return True
        if tool not in self._quiet:
            patterns = (*scope.quiet, *(self._policy.global_scope.quiet if scope.inherit_global else ()))
            self._quiet[tool] = HostIndex(_as_rule(pattern) for pattern in patterns)
        try:
            return bool(self._quiet[tool].matching(parse_host(host)))
        except HostError:
            return False

    def _refresh(self) -> None:
        seen = (signature_of(self._path), self._presets.signature())
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._policy = load_policy(self._path, self._clock(), self._presets)
        except (PolicyError, StoreError):
            return  # `serve` has told, and keeps its last good one, too
        self._quiet = {}


def _as_rule(pattern: HostPattern) -> Rule:
    return Rule("", "", denies=True, pattern=pattern)
