"""Editing the text of a policy file; `edit_service` puts the edits on record, and everybody calls that.

An edit happens under a lock, on the text, and is validated by the same code that loads the file, `tests:` included,
before one atomic rename. What does not validate changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from cloned_proxy.policy.deciding.self_test import failed_tests
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.network import is_network, parse_network
from cloned_proxy.policy.terms.rule import HostPattern, Rule
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.files.list_edit import text_diff
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.policyfile.policy_entry import Addition, rules_of
from cloned_proxy.store.policyfile.policy_file import parse_bytes, policy_from_bytes
from cloned_proxy.store.policyfile.rule_text import RuleText
from cloned_proxy.store.policyfile.tests_of_policy import ForbiddenByTestsError, lines_of_tests, without_tests
from cloned_proxy.store.workspaces.presets import SHIPPED, PresetShelf
from cloned_proxy.store.workspaces.shipped_policy import head_text

_NO_USES: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class EditResult:
    changed: bool
    version: str
    """Version of the policy file after the edit; after a dry run, the version that it would have."""
    rule_ids: tuple[str, ...]
    """The rules that the edit was about, also those that were there already; of `remove`, those that went."""
    diff: str
    """Unified diff; "" when nothing changed."""
    missing: tuple[str, ...] = ()
    """Hosts that `remove` did not find."""
    tests: tuple[str, ...] = ()
    """What was taken out of the file's `tests:`, because the edit and it cannot both be: `tests[0].deny[0] 'URL'`."""
    gone: tuple[Rule, ...] = ()
    """What `remove_where` took out."""


class _Start(NamedTuple):
    """What an edit begins with."""

    before: bytes | None
    """The file as it is; None where there is none."""
    text: str
    """What is edited: the file, or the head of a new one."""
    policy: Policy
    """What the text says; without a version where that is nothing that was in force."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that was checked and is about to be written."""

    before: bytes | None
    """The file as it is; None where there is none."""
    previous: Policy | None
    """What `before` says; None when that is nothing, or not valid."""
    after: bytes
    policy: Policy
    result: EditResult


type Recorder = Callable[[Draft], AbstractContextManager[None]]
"""Entered before the file is written and left after it; raising at either end means that the file stays as it was."""


class PolicyEditor:
    """Edits one policy file. Every method raises PolicyError or StoreError and then has changed nothing.

    With `expected`, the version that whoever asks has seen, another version of the file raises ConflictError.
    """

    def __init__(
        self,
        path: Path,
        *,
        presets: PresetShelf = SHIPPED,
        clock: Callable[[], float] = time.time,
        expected: str | None = None,
        update_tests: bool = False,
        record: Recorder = lambda _draft: contextlib.nullcontext(),
    ) -> None:
        """`update_tests` takes out of the file's `tests:` what the edit breaks; without it they forbid the edit."""
        self._path = path
        self._presets = presets
        self._clock = clock
        self._expected = expected
        self._update_tests = update_tests
        self._record = record
        self._rules = RuleText(path, self._parse)

    def add(
        self, additions: Sequence[Addition], *, used: Mapping[str, int] = _NO_USES, dry_run: bool = False
    ) -> EditResult:
        """Adds entries to `allow` and `deny` lists, or renews them.

        An entry whose rule is there already only brings its terms (`expires`, `max_uses`, `reason`): a lease is
        renewed, with `max_uses` on top of the uses `used` already taken; a rule without a term is permanent, so adding
        a lease for it changes nothing, and adding it without a term makes a lease permanent.
        """
        with self._locked(dry_run=dry_run):
            start = self._begin()
            edited, policy, ids = start.text, start.policy, []
            for addition in additions:
                wanted = rules_of(addition)
                ids += [rule.id for rule in wanted]
                edited, policy = self._rules.added(edited, policy, addition, wanted, used)
            return self._finish(start, edited, tuple(ids), (), dry_run=dry_run)

    def remove(self, hosts: Sequence[str], *, tool: str | None = None, dry_run: bool = False) -> EditResult:
        """Takes back every allow and deny of these host patterns in one scope."""
        patterns = {_pattern(host): host for host in hosts}
        with self._locked(dry_run=dry_run):
            start = self._begin()
            edited, gone = self._rules.without(start.text, start.policy, tool, lambda rule: rule.pattern in patterns)
            found = {rule.pattern for rule in gone}
            missing = tuple(host for pattern, host in patterns.items() if pattern not in found)
            return self._finish(start, edited, tuple(rule.id for rule in gone), missing, dry_run=dry_run)

    def remove_rule(self, rule_id: str, *, dry_run: bool = False) -> EditResult:
        """Takes back the one rule with this id; it is `missing` when there is none."""
        with self._locked(dry_run=dry_run):
            start = self._begin()
            scope = next((rule.scope for rule in start.policy.rules if rule.id == rule_id), GLOBAL_SCOPE)
            tool = None if scope == GLOBAL_SCOPE else scope
            edited, gone = self._rules.without(start.text, start.policy, tool, lambda rule: rule.id == rule_id)
            missing = () if gone else (rule_id,)
            return self._finish(start, edited, tuple(rule.id for rule in gone), missing, dry_run=dry_run)

    def remove_where(self, goes: Callable[[Rule], bool], *, dry_run: bool = False) -> EditResult:
        """Takes back each rule for which `goes` says so, in every scope. It is asked under the lock."""
        with self._locked(dry_run=dry_run):
            start = self._begin()
            edited, gone = start.text, list[Rule]()
            for tool in (None, *start.policy.tools):
                edited, found = self._rules.without(edited, start.policy, tool, goes)
                gone += found
            ids = tuple(rule.id for rule in gone)
            return self._finish(start, edited, ids, (), dry_run=dry_run, gone=tuple(gone))

    def replace(self, text: str, *, dry_run: bool = False) -> EditResult:
        """Another text for the whole file, which may be invalid as it stands."""
        with self._locked(dry_run=dry_run):
            before, policy = self._before(), Policy()
            with contextlib.suppress(PolicyError, StoreError):
                policy = self._parse(before or b"")
            start = _Start(before, (before or b"").decode("utf-8", "replace"), policy)
            return self._finish(start, text, (), (), dry_run=dry_run)

    def edit(
        self, change: Callable[[str, Policy], str], rule_ids: tuple[str, ...], *, dry_run: bool = False
    ) -> EditResult:
        """Another text, made by `change` of the one that is there and of what that says; it is about these rules."""
        with self._locked(dry_run=dry_run):
            start = self._begin()
            return self._finish(start, change(start.text, start.policy), rule_ids, (), dry_run=dry_run)

    def _before(self) -> bytes | None:
        """The file as it is; None where there is none. Raises ConflictError when it is not the expected version."""
        raw = read_policy_bytes(self._path) if os.path.lexists(self._path) else None
        if self._expected is not None and (found := version_of(raw or b"")) != self._expected:
            raise ConflictError(
                f"{self._path}: the policy is at version {found} now, not {self._expected}; "
                "look at what changed and try again"
            )
        return raw

    def _begin(self) -> _Start:
        """The file as the edit finds it; one without a word of its own starts with the head of the shipped one.

        Its `tests:` are not asked here: an edit may be what mends them.
        """
        before = self._before()
        raw = before or b""
        if read_document(raw, str(self._path)).data is not None:
            return _Start(before, raw.decode("utf-8"), self._parse(raw))
        kept = raw.decode("utf-8").rstrip()
        text = f"{kept}\n\n{head_text()}" if kept else head_text()
        # Without a version: nothing of this was ever in force.
        return _Start(before, text, replace(self._parse(text.encode()), version=""))

    def _parse(self, raw: bytes) -> Policy:
        return parse_bytes(raw, source=str(self._path), presets=self._presets)

    def _finish(
        self, start: _Start, edited: str, ids: tuple[str, ...], missing: tuple[str, ...], *, dry_run: bool,
        gone: tuple[Rule, ...] = (),
    ) -> EditResult:  # fmt: skip
        old = start.before or b""
        if edited == start.text:
            return EditResult(False, version_of(old), ids, "", missing)
        edited, changed_tests = self._keeping_tests(old, edited)
        policy = policy_from_bytes(edited.encode(), source=str(self._path), now=self._clock(), presets=self._presets)
        diff = text_diff(old.decode("utf-8", "replace"), edited, str(self._path))
        result = EditResult(True, policy.version, ids, diff, missing, changed_tests, gone)
        if not dry_run:
            previous = start.policy if start.policy.version else None
            with self._record(Draft(start.before, previous, edited.encode(), policy, result)):
                write_atomically(self._path, edited.encode())
        return result

    def _keeping_tests(self, old: bytes, edited: str) -> tuple[str, tuple[str, ...]]:
        """The text with which the file's `tests:` hold, and what of them had to go. Raises ForbiddenByTestsError."""
        policy = self._parse(edited.encode())
        failed = failed_tests(policy, self._clock())
        if not failed:
            return edited, ()
        if not self._update_tests:
            raise ForbiddenByTestsError(failed, str(self._path), lines_of_tests(old, edited, failed))
        return without_tests(self._path, edited, failed), tuple(map(str, failed))

    def _locked(self, *, dry_run: bool) -> AbstractContextManager[None]:
        # A rename cannot show half a file, so reading needs no lock, and no writable directory.
        return contextlib.nullcontext() if dry_run else locked(self._path)


def _pattern(host: str) -> HostPattern:
    try:
        # A deny may name wider networks than an allow.
        return parse_network(host, denies=True) if is_network(host) else parse_pattern(host)
    except ValueError as error:
        raise StoreError(f"{host}: {error}") from error
