"""Rules in the text of a policy file: put in, widened, renewed, taken out. All else of the text stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.files.list_edit import change_list, put_values, read_value, remove_entry, rewrite_entry
from cloned_proxy.store.files.yaml_edit import Value, add_items
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry


class RuleText:
    """The rules in the text of the file at `path`, which is neither read nor written here. `parse` says what they mean.

    Methods raise PolicyError and StoreError.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], Policy]) -> None:
        self._path = path
        self._parse = parse

    def without(
        self, text: str, policy: Policy, tool: str | None, goes: Callable[[Rule], bool]
    ) -> tuple[str, list[Rule]]:
        """The text without the rules of one scope for which `goes` says so, and these."""
        edited = text
        gone: list[Rule] = []
        scope = policy.global_scope if tool is None else policy.scope_of(tool)
        for action, index in (("allow", scope.allow), ("deny", scope.deny)):
            path = Addition((), tool, "deny" if action == "deny" else "allow").path
            # From the end, so that the places of the earlier ones stay.
            for position, rule in reversed(list(enumerate(index.rules))):
                if goes(rule) and not rule.preset:
                    edited = remove_entry(self._path, edited, path, position)
                    gone.append(rule)
        if tool is not None and scope.public is not None and goes(scope.public):
            edited = put_values(self._path, edited, ("tools", tool), {"public": False})
            gone.append(scope.public)
        return edited, gone

    def added(
        self, text: str, policy: Policy, addition: Addition, wanted: Sequence[Rule], used: Mapping[str, int]
    ) -> tuple[str, Policy]:
        """The text with the entries, of which `wanted` are the rules, and what it says then."""
        scope = policy.global_scope if addition.tool is None else policy.scope_of(addition.tool)
        existing = {rule.id: (i, rule) for i, rule in enumerate((getattr(scope, addition.action)).rules)}
        fresh: dict[str, Value] = {}
        path = addition.path
        for entry, rule in zip(addition.entries, wanted, strict=True):
            if rule.id not in existing:
                narrower = _narrower(rule, existing.values()) if not entry.is_lease else None
                if narrower is not None:
                    text = self._widen(text, path, *narrower, rule)
                else:
                    fresh[rule.id] = entry.as_value()
                continue
            position, old = existing[rule.id]
            if old.preset:  # it says so already, without an end
                continue
            text = self._renew(text, path, position, entry, old=old, used=used.get(rule.id, 0))
        if fresh:
            items = list(fresh.values())
            text = change_list(self._path, text, path, lambda t: add_items(t, path, items),
                               lambda listed: listed.extend(read_value(items)))  # fmt: skip
        return text, self._parse(text.encode())

    def _widen(self, text: str, path: tuple[str, ...], position: int, old: Rule, rule: Rule) -> str:
        """The rule that is there gets the protocols and addresses of the new one, and keeps all that it says."""
        changes: dict[str, Value] = {}
        if rule.protocols is not None and rule.protocols != old.protocols:
            changes["protocols"] = [*rule.protocols]
        if rule.addresses != old.addresses:
            changes["addresses"] = sorted(rule.addresses)
        return rewrite_entry(self._path, text, path, position, changes=changes, dropped=())

    def _renew(self, text: str, path: tuple[str, ...], position: int, entry: Entry, *, old: Rule, used: int) -> str:
        was_lease = old.expires is not None or old.max_uses is not None
        terms = entry.terms
        if entry.is_lease and not was_lease:
            terms = {name: value for name, value in terms.items() if name == "reason"}
        if entry.max_uses is not None and "max_uses" in terms:
            terms["max_uses"] = entry.max_uses + used
        dropped = {name for name in ("expires", "max_uses") if was_lease and name not in terms}
        return rewrite_entry(self._path, text, path, position, changes=terms, dropped=dropped)


def _narrower(rule: Rule, existing: Iterable[tuple[int, Rule]]) -> tuple[int, Rule] | None:
    """The permanent rule, with its place, that says the same but for protocols and addresses, and opens less."""
    for position, old in existing:
        same = (old.denies, old.pattern, old.ports, old.methods, old.paths, old.registry) == (
            rule.denies, rule.pattern, rule.ports, rule.methods, rule.paths, rule.registry
        )  # fmt: skip
        opens_less = old.addresses <= rule.addresses and (rule.raw_tcp or old.protocols == rule.protocols)
        if same and opens_less and old.inject is None and not (old.is_lease or old.preset):
            return position, old
    return None
