"""The one way to edit a policy file: for the command line now, for the API and the approvals later.

An edit happens under a lock, on the text, and is validated by the same code that loads the file, `tests:` included,
before one atomic rename. What does not validate changes nothing. The caller records the PolicyEvent.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock, Timeout

from cloned_proxy.policy.host import HostError, parse_pattern
from cloned_proxy.policy.model import GLOBAL_SCOPE, HostPattern, Policy, Rule
from cloned_proxy.policy.parse import parse_policy
from cloned_proxy.store.atomic import write_atomically
from cloned_proxy.store.errors import StoreError
from cloned_proxy.store.policy_file import policy_from_bytes, read_policy_bytes, version_of
from cloned_proxy.store.yaml_edit import Value, add_items, remove_item, render, replace_item, set_keys
from cloned_proxy.store.yaml_reader import read_document

type Action = Literal["allow", "deny"]

_LOCK_SECONDS: Final = 10.0
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


class PolicyEditor:
    """Edits one policy file. Every method raises PolicyError or StoreError and then has changed nothing."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def add(
        self, additions: Sequence[Addition], *, used: Mapping[str, int] = _NO_USES, dry_run: bool = False
    ) -> EditResult:
        """Adds entries to `allow` and `deny` lists, or renews them.

        An entry whose rule is there already only brings its terms (`expires`, `max_uses`, `reason`): a lease is
        renewed, with `max_uses` on top of the uses `used` already taken; a rule without a term is permanent, so adding
        a lease for it changes nothing, and adding it without a term makes a lease permanent.
        """
        with self._locked(dry_run=dry_run):
            text, policy = self._current()
            edited, ids = text, []
            for addition in additions:
                wanted = _rules_of(addition)
                ids += [rule.id for rule in wanted]
                edited, policy = self._add(edited, policy, addition, wanted, used)
            return self._finish(text, edited, tuple(ids), (), dry_run=dry_run)

    def remove(self, hosts: Sequence[str], *, tool: str | None = None, dry_run: bool = False) -> EditResult:
        """Takes back every allow and deny of these host patterns in one scope."""
        with self._locked(dry_run=dry_run):
            text, policy = self._current()
            patterns = {_pattern(host): host for host in hosts}
            edited, gone = text, []
            scope = policy.global_scope if tool is None else policy.scope_of(tool)
            for action, index in (("allow", scope.allow), ("deny", scope.deny)):
                path = Addition((), tool, "deny" if action == "deny" else "allow").path
                # From the end, so that the places of the earlier ones stay.
                for position, rule in reversed(list(enumerate(index.rules))):
                    if rule.pattern in patterns:
                        edited = _remove(self._path, edited, path, position)
                        gone.append(rule)
            found = {rule.pattern for rule in gone}
            missing = tuple(host for pattern, host in patterns.items() if pattern not in found)
            return self._finish(text, edited, tuple(rule.id for rule in gone), missing, dry_run=dry_run)

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
            text = _edit(
                self._path, text, path, lambda t: add_items(t, path, items), lambda listed: listed.extend(_read(items))
            )
        return text, policy if not fresh else self._validate(text)

    def _renew(self, text: str, path: tuple[str, ...], position: int, entry: Entry, *, old: Rule, used: int) -> str:
        was_lease = old.expires is not None or old.max_uses is not None
        terms = entry.terms
        if entry.is_lease and not was_lease:
            terms = {name: value for name, value in terms.items() if name == "reason"}
        if entry.max_uses is not None and "max_uses" in terms:
            terms["max_uses"] = entry.max_uses + used
        dropped = {name for name in ("expires", "max_uses") if was_lease and name not in terms}
        item = _list_at(read_document(text.encode(), str(self._path)).data, path)[position]
        body: dict[str, Any] = dict(item) if isinstance(item, dict) else {"host": item}
        changes = {name: value for name, value in terms.items() if body.get(name) != _read(value)}
        if dropped & body.keys():
            kept: dict[str, Value] = {name: value for name, value in {**body, **changes}.items() if name not in dropped}
            whole: Value = kept if len(kept) > 1 else body["host"]
            return _edit(self._path, text, path, lambda t: replace_item(t, path, position, whole),
                         lambda items: items.__setitem__(position, _read(whole)))  # fmt: skip
        if not changes:
            return text
        return _edit(self._path, text, path, lambda t: set_keys(t, path, position, changes),
                     lambda items: items.__setitem__(position, {**body, **_read(changes)}))  # fmt: skip

    def _current(self) -> tuple[str, Policy]:
        """The text and its policy; a missing or empty file starts as the smallest valid one."""
        raw = read_policy_bytes(self._path) if os.path.lexists(self._path) else b""
        if not raw.strip():
            return "", parse_policy({"version": 1}, source=str(self._path), version="", lines={})
        policy = policy_from_bytes(raw, source=str(self._path), now=self._clock())
        return raw.decode("utf-8"), policy

    def _validate(self, text: str) -> Policy:
        return policy_from_bytes(text.encode(), source=str(self._path), now=self._clock())

    def _finish(
        self, text: str, edited: str, ids: tuple[str, ...], missing: tuple[str, ...], *, dry_run: bool
    ) -> EditResult:
        if edited == text:
            return EditResult(False, version_of(text.encode()), ids, "", missing)
        policy = self._validate(edited)
        lines = difflib.unified_diff(
            text.splitlines(keepends=True), edited.splitlines(keepends=True), str(self._path), str(self._path)
        )
        diff = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
        if not dry_run:
            write_atomically(self._path, edited.encode())
        return EditResult(True, policy.version, ids, diff, missing)

    @contextlib.contextmanager
    def _locked(self, *, dry_run: bool) -> Iterator[None]:
        if dry_run:  # a rename cannot show half a file, so reading needs no lock, and no writable directory
            yield
            return
        target = Path(os.path.realpath(self._path))
        lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=_LOCK_SECONDS, mode=0o600)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(f"{self._path}: another edit holds the lock for {_LOCK_SECONDS:.0f} s; end it") from error
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot be locked for the edit: {error.strerror}; make its directory writable"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _rules_of(addition: Addition) -> tuple[Rule, ...]:
    """The rules that the entries make, one each, in their order. Raises PolicyError."""
    section: dict[str, Any] = {addition.action: [_read(entry.as_value()) for entry in addition.entries]}
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


def _read(value: Any) -> Any:
    """A value as the reader will give it back."""
    return read_document(render(value).encode(), "new entry").data


def _edit(
    path: Path, text: str, place: tuple[str, ...], change: Callable[[str], str], mean: Callable[[list[Any]], object]
) -> str:
    """Changes the text, and proves that its meaning changed as `mean` changes the list, and nowhere else."""
    expected = read_document(text.encode(), str(path)).data
    if expected is None:
        expected, text = {"version": 1}, text + "version: 1\n"
    mean(_list_at(expected, place))
    try:
        edited = change(text)
        same = read_document(edited.encode(), str(path)).data == expected
    except (ValueError, IndexError, StoreError) as error:
        raise StoreError(f"{path}: its layout cannot be edited safely ({error}); edit it by hand") from error
    if not same:
        raise StoreError(f"{path}: its layout cannot be edited safely; edit it by hand")
    return edited


def _remove(path: Path, text: str, place: tuple[str, ...], position: int) -> str:
    return _edit(path, text, place, lambda t: remove_item(t, place, position), lambda items: items.pop(position))


def _list_at(document: Any, path: tuple[str, ...]) -> list[Any]:
    for key in path[:-1]:
        document = document.setdefault(key, {})
    listed: list[Any] = document.setdefault(path[-1], [])
    return listed
