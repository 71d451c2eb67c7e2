"""Editing the text of a policy file; `store.edit_service` puts the edits on record and is what everybody calls.

An edit happens under a lock, on the text, and is validated by the same code that loads the file, `tests:` included,
before one atomic rename. What does not validate changes nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from cloned_proxy.policy.host import HostError, parse_pattern
from cloned_proxy.policy.model import GLOBAL_SCOPE, HostPattern, Policy, Rule
from cloned_proxy.policy.parse import PolicyError, parse_policy
from cloned_proxy.store.atomic import write_atomically
from cloned_proxy.store.errors import ConflictError, StoreError
from cloned_proxy.store.list_edit import change_list, read_value, remove_entry, rewrite_entry, text_diff
from cloned_proxy.store.lock import locked
from cloned_proxy.store.policy_file import policy_from_bytes, read_policy_bytes, version_of
from cloned_proxy.store.yaml_edit import Value, add_items

type Action = Literal["allow", "deny"]

_NO_USES: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry to write, in the words of the file; it is checked by the policy parser like any other."""

    host: str
    ports: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    expires: float | None = None
    """Unix seconds; written to the second, rounded up."""
    max_uses: int | None = None
    reason: str = ""

    def as_value(self) -> Value:
        """A plain string when there is only a host, a mapping otherwise."""
        lists = {name: list(getattr(self, name)) for name in ("ports", "methods", "paths", "protocols", "addresses")}
        body = {"host": self.host, **{name: items for name, items in lists.items() if items}, **self.terms}
        return body if len(body) > 1 else self.host

    @property
    def terms(self) -> dict[str, Value]:
        """What may change while the rule stays the same one."""
        terms: dict[str, Value] = {}
        if self.expires is not None:
            terms["expires"] = datetime.fromtimestamp(math.ceil(self.expires), UTC)
        if self.max_uses is not None:
            terms["max_uses"] = self.max_uses
        if self.reason:
            terms["reason"] = self.reason
        return terms

    @property
    def is_lease(self) -> bool:
        return self.expires is not None or self.max_uses is not None

    def __str__(self) -> str:
        """All that the entry says, on one line: in the record a narrow rule must not read like a broad one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        words = [":".join((host, *map(str, self.ports))), ",".join(self.methods), ",".join(self.paths)]
        words += [*self.protocols, *self.addresses]
        if self.max_uses is not None:
            words.append(f"uses {self.max_uses}")
        if self.expires is not None:
            words.append(f"until {datetime.fromtimestamp(self.expires, UTC):%Y-%m-%dT%H:%M:%SZ}")
        return " ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Addition:
    """Entries for one list. `tool` None is the global scope."""

    entries: tuple[Entry, ...]
    tool: str | None = None
    action: Action = "allow"

    @property
    def scope_path(self) -> tuple[str, ...]:
        return (GLOBAL_SCOPE,) if self.tool is None else ("tools", self.tool)

    @property
    def path(self) -> tuple[str, ...]:
        return (*self.scope_path, self.action)

    def __str__(self) -> str:
        for_whom = f" for {self.tool}" if self.tool is not None else ""
        return f"{self.action} {', '.join(map(str, self.entries))}{for_whom}"


@dataclass(frozen=True, slots=True)
class EditResult:
    changed: bool
    version: str
    """Of the policy file after the edit; after a dry run, the version that it would have."""
    rule_ids: tuple[str, ...]
    """The rules that the edit was about, also those that were there already; of `remove`, those that went."""
    diff: str
    """Unified diff; "" when nothing changed."""
    missing: tuple[str, ...] = ()
    """Hosts that `remove` did not find."""


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
        clock: Callable[[], float] = time.time,
        expected: str | None = None,
        record: Recorder = lambda _draft: contextlib.nullcontext(),
    ) -> None:
        self._path = path
        self._clock = clock
        self._expected = expected
        self._record = record

    def add(
        self, additions: Sequence[Addition], *, used: Mapping[str, int] = _NO_USES, dry_run: bool = False
    ) -> EditResult:
        """Adds entries to `allow` and `deny` lists, or renews them.

        An entry whose rule is there already only brings its terms (`expires`, `max_uses`, `reason`): a lease is
        renewed, with `max_uses` on top of the uses `used` already taken; a rule without a term is permanent, so adding
        a lease for it changes nothing, and adding it without a term makes a lease permanent.
        """
        with self._locked(dry_run=dry_run):
            before = self._before()
            text, previous = self._current(before)
            edited, policy, ids = text, previous, []
            for addition in additions:
                wanted = _rules_of(addition)
                ids += [rule.id for rule in wanted]
                edited, policy = self._add(edited, policy, addition, wanted, used)
            return self._finish(before, previous, edited, tuple(ids), (), dry_run=dry_run)

    def remove(self, hosts: Sequence[str], *, tool: str | None = None, dry_run: bool = False) -> EditResult:
        """Takes back every allow and deny of these host patterns in one scope."""
        patterns = {_pattern(host): host for host in hosts}
        with self._locked(dry_run=dry_run):
            before = self._before()
            text, policy = self._current(before)
            edited, gone = self._without(text, policy, tool, lambda rule: rule.pattern in patterns)
            found = {rule.pattern for rule in gone}
            missing = tuple(host for pattern, host in patterns.items() if pattern not in found)
            return self._finish(before, policy, edited, tuple(rule.id for rule in gone), missing, dry_run=dry_run)

    def remove_rule(self, rule_id: str, *, dry_run: bool = False) -> EditResult:
        """Takes back the one rule with this id; it is `missing` when there is none."""
        with self._locked(dry_run=dry_run):
            before = self._before()
            text, policy = self._current(before)
            scope = next((rule.scope for rule in policy.rules if rule.id == rule_id), GLOBAL_SCOPE)
            tool = None if scope == GLOBAL_SCOPE else scope
            edited, gone = self._without(text, policy, tool, lambda rule: rule.id == rule_id)
            missing = () if gone else (rule_id,)
            return self._finish(before, policy, edited, tuple(rule.id for rule in gone), missing, dry_run=dry_run)

    def replace(self, text: str, *, dry_run: bool = False) -> EditResult:
        """Another text for the whole file, which may be invalid as it stands."""
        with self._locked(dry_run=dry_run):
            before, previous = self._before(), None
            with contextlib.suppress(PolicyError, StoreError):
                previous = self._validate(before or b"")
            return self._finish(before, previous, text, (), (), dry_run=dry_run)

    def edit(
        self, change: Callable[[str, Policy], str], rule_ids: tuple[str, ...], *, dry_run: bool = False
    ) -> EditResult:
        """Another text, made by `change` of the one that is there and of what that says; it is about these rules."""
        with self._locked(dry_run=dry_run):
            before = self._before()
            text, policy = self._current(before)
            return self._finish(before, policy, change(text, policy), rule_ids, (), dry_run=dry_run)

    def _without(
        self, text: str, policy: Policy, tool: str | None, goes: Callable[[Rule], bool]
    ) -> tuple[str, list[Rule]]:
        edited = text
        gone: list[Rule] = []
        scope = policy.global_scope if tool is None else policy.scope_of(tool)
        for action, index in (("allow", scope.allow), ("deny", scope.deny)):
            path = Addition((), tool, "deny" if action == "deny" else "allow").path
            # From the end, so that the places of the earlier ones stay.
            for position, rule in reversed(list(enumerate(index.rules))):
                if goes(rule):
                    edited = remove_entry(self._path, edited, path, position)
                    gone.append(rule)
        return edited, gone

    def _add(
        self, text: str, policy: Policy, addition: Addition, wanted: Sequence[Rule], used: Mapping[str, int]
    ) -> tuple[str, Policy]:
        scope = policy.global_scope if addition.tool is None else policy.scope_of(addition.tool)
        existing = {rule.id: (i, rule) for i, rule in enumerate((getattr(scope, addition.action)).rules)}
        fresh: dict[str, Value] = {}
        path = addition.path
        for entry, rule in zip(addition.entries, wanted, strict=True):
            if rule.id not in existing:
                fresh[rule.id] = entry.as_value()
                continue
            position, old = existing[rule.id]
            text = self._renew(text, path, position, entry, old=old, used=used.get(rule.id, 0))
        if fresh:
            items = list(fresh.values())
            text = change_list(self._path, text, path, lambda t: add_items(t, path, items),
                               lambda listed: listed.extend(read_value(items)))  # fmt: skip
        return text, policy if not fresh else self._validate(text.encode())

    def _renew(self, text: str, path: tuple[str, ...], position: int, entry: Entry, *, old: Rule, used: int) -> str:
        was_lease = old.expires is not None or old.max_uses is not None
        terms = entry.terms
        if entry.is_lease and not was_lease:
            terms = {name: value for name, value in terms.items() if name == "reason"}
        if entry.max_uses is not None and "max_uses" in terms:
            terms["max_uses"] = entry.max_uses + used
        dropped = {name for name in ("expires", "max_uses") if was_lease and name not in terms}
        return rewrite_entry(self._path, text, path, position, changes=terms, dropped=dropped)

    def _before(self) -> bytes | None:
        """The file as it is; None where there is none. Raises ConflictError when it is not the expected version."""
        raw = read_policy_bytes(self._path) if os.path.lexists(self._path) else None
        if self._expected is not None and (found := version_of(raw or b"")) != self._expected:
            raise ConflictError(
                f"{self._path}: the policy is at version {found} now, not {self._expected}; "
                "look at what changed and try again"
            )
        return raw

    def _current(self, before: bytes | None) -> tuple[str, Policy]:
        """The text and its policy; a missing or empty file starts as the smallest valid one."""
        if before is None or not before.strip():
            return "", parse_policy({"version": 1}, source=str(self._path), version="", lines={})
        return before.decode("utf-8"), self._validate(before)

    def _validate(self, raw: bytes) -> Policy:
        return policy_from_bytes(raw, source=str(self._path), now=self._clock())

    def _finish(
        self,
        before: bytes | None,
        previous: Policy | None,
        edited: str,
        ids: tuple[str, ...],
        missing: tuple[str, ...],
        *,
        dry_run: bool,
    ) -> EditResult:
        old, new = before or b"", edited.encode()
        if new == old or not (new or old.strip()):
            return EditResult(False, version_of(old), ids, "", missing)
        policy = self._validate(new)
        diff = text_diff(old.decode("utf-8", "replace"), edited, str(self._path))
        result = EditResult(True, policy.version, ids, diff, missing)
        if not dry_run:
            with self._record(Draft(before, previous, new, policy, result)):
                write_atomically(self._path, new)
        return result

    def _locked(self, *, dry_run: bool) -> AbstractContextManager[None]:
        # A rename cannot show half a file, so reading needs no lock, and no writable directory.
        return contextlib.nullcontext() if dry_run else locked(self._path)


def _rules_of(addition: Addition) -> tuple[Rule, ...]:
    """The rules that the entries make, one each, in their order. Raises PolicyError."""
    section: dict[str, Any] = {addition.action: [read_value(entry.as_value()) for entry in addition.entries]}
    for key in reversed(addition.scope_path):
        section = {key: section}
    policy = parse_policy({"version": 1, **section}, source="new entry", version="", lines={})
    scope = policy.global_scope if addition.tool is None else policy.scope_of(addition.tool)
    rules: tuple[Rule, ...] = getattr(scope, addition.action).rules
    return rules


def _pattern(host: str) -> HostPattern:
    try:
        return parse_pattern(host)
    except HostError as error:
        raise StoreError(f"{host}: {error}") from error
