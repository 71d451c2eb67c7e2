"""Entries of a policy file as somebody wants them: what they say in its words, on one line, and as rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from cloned_proxy.policy.reading.parse import PolicyError, parse_policy
from cloned_proxy.policy.terms.address import AddressWord
from cloned_proxy.policy.terms.host import is_loopback_name
from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.policy.terms.network import is_network
from cloned_proxy.policy.terms.problem import Problem
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE
from cloned_proxy.store.files.list_edit import read_value
from cloned_proxy.store.files.yaml_edit import Value

type Action = Literal["allow", "deny"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry to write, in the words of the file; it is checked by the policy parser like any other."""

    host: str
    """A host pattern, or in CIDR notation a network."""
    ports: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    """Hosts that a deny leaves to the other rules (`except:`)."""
    registry: Mapping[str, Value] | None = None
    """`kind`, `min_age`, `allow` and `index`, in the words of the file."""
    expires: float | None = None
    """Unix seconds; written to the second, rounded up."""
    max_uses: int | None = None
    reason: str = ""

    def as_value(self) -> Value:
        """A plain string when there is only a host, a mapping otherwise."""
        lists = {name: list(getattr(self, name)) for name in ("ports", "methods", "paths", "protocols", "addresses")}
        lists["except"] = list(self.exceptions)
        key = "cidr" if is_network(self.host) else "host"
        body: dict[str, Value] = {key: self.host, **{name: items for name, items in lists.items() if items}}
        if self.registry is not None:
            body["registry"] = dict(self.registry)
        body |= self.terms
        return self.host if body.keys() == {"host"} else body

    def opened_for_its_name(self) -> Entry:
        """The entry with `addresses: [private]` where the name means this machine: without it no call would pass."""
        name = self.host.lower().removesuffix(".")
        if not is_loopback_name(name) or AddressWord.PRIVATE in self.addresses:
            return self
        return replace(self, addresses=(AddressWord.PRIVATE.value, *self.addresses))

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
        words = [
            ":".join((in_brackets(self.host), *map(str, self.ports))),
            ",".join(self.methods),
            ",".join(self.paths),
        ]
        words += [*self.protocols, *self.addresses]
        if self.exceptions:
            words.append(f"except {','.join(self.exceptions)}")
        if self.registry is not None:
            words += [f"{name} {_listed(value)}" for name, value in self.registry.items()]
        if self.max_uses is not None:
            words.append(f"uses {self.max_uses}")
        if self.expires is not None:
            words.append(f"until {datetime.fromtimestamp(self.expires, UTC):%Y-%m-%dT%H:%M:%SZ}")
        return " ".join(filter(None, words))


def _listed(value: Value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


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


class EntryError(PolicyError):
    """Entries that no policy takes. Nothing of them is in a file yet, so what is named is the entry, not a line."""

    def __init__(self, problems: Sequence[tuple[Entry, Problem]]) -> None:
        super().__init__(tuple(problem for _, problem in problems), "")
        self._problems = problems

    def __str__(self) -> str:
        return "\n".join(
            problem.message if repr(entry.host) in problem.message else f"{entry.host}: {problem.message}"
            for entry, problem in self._problems
        )


def rules_of(addition: Addition) -> tuple[Rule, ...]:
    """The rules that the entries make, one each, in their order. Raises EntryError."""
    rules: list[Rule] = []
    problems: list[tuple[Entry, Problem]] = []
    for entry in addition.entries:
        try:
            rules.append(_rule_of(entry, addition))
        except PolicyError as error:
            problems += [(entry, replace(problem, path=_within(problem.path))) for problem in error.problems]
    if problems:
        raise EntryError(problems)
    return tuple(rules)


def _rule_of(entry: Entry, addition: Addition) -> Rule:
    section: dict[str, Any] = {addition.action: [read_value(entry.as_value())]}
    for key in reversed(addition.scope_path):
        section = {key: section}
    policy = parse_policy({"version": 1, **section}, source="", version="", lines={})
    scope = policy.global_scope if addition.tool is None else policy.scope_of(addition.tool)
    (rule,) = getattr(scope, addition.action).rules
    return cast("Rule", rule)


def _within(path: str) -> str:
    """`ports[0]` of `tools.demo@v1.allow[0].ports[0]`: the place in the one entry."""
    return path.partition("[0]")[2].removeprefix(".")
