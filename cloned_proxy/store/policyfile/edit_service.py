"""The one edit service: the command line, the API and the approvals change the policy here, and nowhere else.

An edit and its record stand or fall together. Under the file's lock the audit entry and the new version are written
first, inside a transaction; then the file is renamed into place; then the transaction is committed. What fails on the
way leaves file and log as they were; a commit that fails puts the old file back. A crash between the rename and the
commit leaves a file that the log does not name: `serve` puts it on record as a change by hand.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.store.audit import policy_history
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.policy_history import PolicySnapshot, PolicyVersion
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.files.list_edit import text_diff
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.leases.deadline import boot_id, uptime
from cloned_proxy.store.leases.ended_rules import LeaseUse, is_over
from cloned_proxy.store.leases.lease_time import add_lease_ends, begun
from cloned_proxy.store.policyfile.policy_edit import Draft, EditResult, PolicyEditor, Recorder
from cloned_proxy.store.policyfile.policy_entry import Addition
from cloned_proxy.store.policyfile.rule_change import RuleChange, change_rule
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import PolicyEvent

_MAX_SUMMARY: Final = 200
_RETRIES: Final = 3

type _Summary = Callable[[EditResult], str]


@dataclass(frozen=True, slots=True)
class _Order:
    """Who asks for an edit, and under which conditions."""

    actor: str
    why: str
    summary: _Summary
    expected_version: str | None
    dry_run: bool
    update_tests: bool


class EditService:
    """Edits one policy file and knows its history.

    Methods that edit raise PolicyError, StoreError, or ConflictError when the file is not at `expected_version` any
    more; then nothing has changed. `actor` is who (`cli:<user>`, `device:<name>`), `why` the reason given. What the
    file's own `tests:` forbid raises ForbiddenByTestsError, or changes them with `update_tests`.
    """

    def __init__(
        self, workspace: Workspace, policy_file: Path | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`policy_file` as for `--policy`. Raises StoreError for settings that cannot be read."""
        self.workspace = workspace
        self.path = workspace.policy_path(policy_file)
        self.presets = workspace.presets_for(self.path)
        """What the names in `use` stand for when an edit is checked."""
        self._clock = clock

    def add(
        self,
        additions: Sequence[Addition],
        *,
        actor: str,
        why: str,
        summary: str = "",
        expected_version: str | None = None,
        dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:
        """Adds or renews entries of several lists in one edit, or none. `summary` "" tells what they say."""
        told = summary or "; ".join(map(str, additions))
        order = _Order(actor, why, lambda _: told, expected_version, dry_run, update_tests)
        with self._editor(order) as (editor, uses):
            return editor.add(additions, used=uses, dry_run=dry_run)

    def remove(
        self,
        hosts: Sequence[str],
        *,
        tool: str | None,
        actor: str,
        why: str,
        expected_version: str | None = None,
        dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:
        """Takes back every rule for these hosts in one scope; hosts without one are `missing` in the result."""
        with self._editor(
            _Order(
                actor, why, lambda result: removal_summary(hosts, tool, result), expected_version, dry_run, update_tests
            )
        ) as (editor, _):
            return editor.remove(hosts, tool=tool, dry_run=dry_run)

    def remove_rule(
        self,
        rule_id: str,
        *,
        actor: str,
        why: str,
        expected_version: str | None = None,
        dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:
        """Takes back one rule; an id that is not there is `missing` in the result."""

        def summary(result: EditResult) -> str:
            removed = [line[1:].strip() for line in result.diff.splitlines()[2:] if line.startswith("-")]
            return f"remove rule {rule_id}: {' '.join(removed)}"[:_MAX_SUMMARY]

        with self._editor(_Order(actor, why, summary, expected_version, dry_run, update_tests)) as (editor, _):
            return editor.remove_rule(rule_id, dry_run=dry_run)

    def prune(
        self, *, actor: str, why: str = "", after: float = 0.0, by_itself: bool = False, dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:  # fmt: skip
        """Takes out rules that ended by themselves `after` seconds ago or earlier; none that is in force by any clock.

        `by_itself`: without a person's word, and then never a deny. What goes is `gone` in the result.
        """
        order = _Order(actor, why, _pruned, None, dry_run, update_tests)
        with self._editor(order) as (editor, _):
            use = self._lease_use()
            return editor.remove_where(
                lambda rule: is_over(rule, use, by_itself=by_itself, seconds=after), dry_run=dry_run
            )

    def _lease_use(self) -> LeaseUse:
        now, up, boot = self._clock(), uptime(), boot_id()
        if not self.workspace.state_db.exists():
            return LeaseUse(now, up, boot)
        with AuditLog(self.workspace.state_db) as log:
            last = {rule: hits.last for rule, hits in log.rule_hits().items()}
            return LeaseUse(now, up, boot, log.lease_uses(), {end.rule: end for end in log.lease_ends()}, last)

    def change_rule(
        self,
        rule_id: str,
        change: RuleChange,
        *,
        actor: str,
        why: str,
        expected_version: str | None = None,
        dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:
        """Changes what one rule says, where it stands. Raises StoreError for no such rule, as well."""
        told = f"change rule {rule_id}: {change}"[:_MAX_SUMMARY]
        order = _Order(actor, why, lambda _: told, expected_version, dry_run, update_tests)
        with self._editor(order) as (editor, uses):
            used = uses.get(rule_id, 0)
            return editor.edit(
                lambda text, policy: change_rule(text, policy, rule_id, change, used=used), (rule_id,), dry_run=dry_run
            )

    def restore(
        self,
        version: str,
        *,
        actor: str,
        why: str,
        expected_version: str | None = None,
        dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:
        """Puts the text of an earlier version back, as it was. It must be valid as of now, its `tests:` included."""
        text = self.text_of(version)
        told = f"restore version {version}"
        with self._editor(_Order(actor, why, lambda _: told, expected_version, dry_run, update_tests)) as (editor, _):
            return editor.replace(text, dry_run=dry_run)

    def rewrite(
        self,
        change: Callable[[bytes], str],
        *,
        summary: str,
        actor: str,
        why: str,
        dry_run: bool = False,
        update_tests: bool = False,
    ) -> EditResult:
        """Another text for the whole file, made from the one that is there (b"" for none).

        `change` raises StoreError for what it cannot do; it is called again when somebody else edits meanwhile.
        """
        for last in (*(False,) * _RETRIES, True):
            before = read_policy_bytes(self.path) if os.path.lexists(self.path) else b""
            text = change(before)
            order = _Order(actor, why, lambda _: summary, version_of(before), dry_run, update_tests)
            try:
                with self._editor(order) as (editor, _):
                    return editor.replace(text, dry_run=dry_run)
            except ConflictError:
                if last:
                    raise
        raise AssertionError("the last round returns or raises")

    def history(self, limit: int = policy_history.MAX_VERSIONS) -> list[PolicyVersion]:
        """The versions that came into force, the newest first. Raises StoreError."""
        if not self.workspace.state_db.exists():
            return []
        with AuditLog(self.workspace.state_db) as log, log.reading() as database:
            return policy_history.versions(database, str(self.path), limit)

    def text_of(self, version: str) -> str:
        """The whole text of one version. Raises StoreError, also for one that the history does not have."""
        if not self.workspace.state_db.exists():
            raise StoreError(f"{self.workspace.state_db}: there is no history here yet; `serve` begins one")
        with AuditLog(self.workspace.state_db) as log, log.reading() as database:
            return policy_history.text_of(database, str(self.path), version)

    def diff(self, version: str) -> str:
        """What one version changed, as a unified diff; against nothing for the oldest. Raises as `text_of`."""
        text = self.text_of(version)
        with AuditLog(self.workspace.state_db) as log, log.reading() as database:
            before = policy_history.version_before(database, str(self.path), version)
        return text_diff("" if before is None else self.text_of(before), text, str(self.path))

    @contextlib.contextmanager
    def _editor(self, order: _Order) -> Iterator[tuple[PolicyEditor, dict[str, int]]]:
        """An editor that puts its edit on record, and the uses that leases have spent. Raises StoreError in a fleet."""
        if self.path == self.workspace.fleet_policy:
            raise StoreError(
                "this proxy has its policy from a fleet: change the file that is published, and run `cloned-proxy "
                "fleet publish FILE --reason …` where the key is (`--policy FILE` edits a file of your own)"
            )
        if order.dry_run and not self.workspace.state_db.exists():  # looking makes no file
            yield self._made(order), {}
            return
        if not order.dry_run:
            self.workspace.create()
        with AuditLog(self.workspace.state_db) as log:
            yield self._made(order, lambda draft: self._on_record(log, draft, order)), log.lease_uses()

    def _made(self, order: _Order, record: Recorder = lambda _draft: contextlib.nullcontext()) -> PolicyEditor:
        return PolicyEditor(
            self.path,
            presets=self.presets,
            clock=self._clock,
            expected=order.expected_version,
            update_tests=order.update_tests,
            record=record,
        )

    @contextlib.contextmanager
    def _on_record(self, log: AuditLog, draft: Draft, order: _Order) -> Iterator[None]:
        now, actor, why = self._clock(), order.actor, order.why
        summary = order.summary(draft.result)
        if draft.result.tests:
            summary = f"{summary}; no longer tested: {', '.join(draft.result.tests)}"
        event = PolicyEvent(now, "edit", actor, summary, why, draft.policy.version)
        source = str(self.path)
        versions = [
            PolicySnapshot(
                PolicyVersion(event.policy, now, actor, why, summary), source, draft.after, draft.policy.rules
            )
        ]
        if draft.before is not None and draft.previous is not None and draft.previous.version:
            # The file may have been changed by hand while nobody served; a roll-back of this edit must find that.
            found = PolicyVersion(draft.previous.version, now, "file", "", "found in the file")
            versions.insert(0, PolicySnapshot(found, source, draft.before, draft.previous.rules))
        written = False
        try:
            with log.appending(event) as database:
                for version in versions:
                    policy_history.remember(database, version)
                add_lease_ends(database, begun(draft.policy.rules, now=now, up=uptime()))
                yield
                written = True
        except StoreError:
            if written:
                self._put_back(draft.before)
            raise

    def _put_back(self, before: bytes | None) -> None:
        try:
            if before is None:
                self.path.unlink(missing_ok=True)
            else:
                write_atomically(self.path, before)
        except (OSError, StoreError) as error:
            raise StoreError(
                f"{self.path}: the edit is in force but not on record, and could not be taken back ({error}); "
                "look at the file, and free space"
            ) from error


def _pruned(result: EditResult) -> str:
    """What `prune` took out, for the record."""
    rules = ", ".join(f"{'deny' if rule.denies else 'allow'} {rule.pattern} ({rule.scope})" for rule in result.gone)
    return f"prune {len(result.gone)} ended: {rules}"[:_MAX_SUMMARY]


def removal_summary(hosts: Sequence[str], tool: str | None, result: EditResult) -> str:
    """What `remove` took back, for the record and for people."""
    gone = [host for host in hosts if host not in result.missing]
    return f"remove {' '.join(gone)}{f' for {tool}' if tool else ''}"
