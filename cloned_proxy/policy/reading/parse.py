"""A policy document (plain data, as YAML or JSON gives it) becomes a `Policy`, or every problem in it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.callers.tool_id import is_tool_id, tool_id
from cloned_proxy.policy.model.model import NO_LIMITS, Limits, Policy, PolicyTest, Scope
from cloned_proxy.policy.model.preset import NO_PRESETS, Preset, versions_of
from cloned_proxy.policy.reading.document_reader import DocumentReader, path_text
from cloned_proxy.policy.reading.documents import (
    GlobalDocument,
    LimitsDocument,
    PolicyDocument,
    TestDocument,
    ToolDocument,
)
from cloned_proxy.policy.reading.messages import kind_of
from cloned_proxy.policy.reading.rule_id import rule_id
from cloned_proxy.policy.reading.rule_reader import RuleReader
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.problem import DocumentPath, Problem
from cloned_proxy.policy.terms.rule import PUBLIC_INTERNET, Rule
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE, OWN_RULES, Anonymous, Mode, OnDeny


class PolicyError(Exception):
    """A policy that is not accepted. Holds every problem found, in file order."""

    def __init__(self, problems: tuple[Problem, ...], source: str) -> None:
        super().__init__("\n".join(f"{_place_of(p, source)}: {p.path}: {p.message}" for p in problems))
        self.problems = problems
        self.source = source


def _place_of(problem: Problem, source: str) -> str:
    return source if problem.line is None else f"{source}:{problem.line}"


def parse_policy(
    document: object,
    *,
    source: str,
    version: str,
    lines: Mapping[DocumentPath, int],
    presets: Mapping[str, Preset | str] = NO_PRESETS,
) -> Policy:
    """Validates a document and runs nothing. Raises PolicyError.

    `lines` maps the path of each mapping value and list item to its line in the file (1-based). `presets` has what the
    names in `use` stand for, or in place of one what is wrong with it.
    """
    reader = DocumentReader(source, lines)
    if document is None or document == {}:
        reader.problem((), "the file is empty; start with 'version: 1'")
    elif not isinstance(document, dict):
        reader.problem((), f"a policy is a mapping that starts with 'version: 1', not {kind_of(document)}")
    else:
        read = reader.struct(PolicyDocument, document, ())
        policy = _PolicyReader(reader, presets).policy(document, read, version)
        if policy is not None and not reader.problems:
            return policy
    raise PolicyError(reader.in_file_order(), source)


_PUBLIC_NEEDS_LIMITS: Final = (
    "'public: true' opens every public host, so it needs a bound; add "
    "'limits: {requests_per_minute: 120, bytes_per_hour: 200MiB}'"
)
_RULE_LISTS: Final = ("allow", "deny")


@dataclass(frozen=True, slots=True)
class _PolicyReader:
    """Reads the scopes of one document, which collects their problems."""

    document: DocumentReader
    presets: Mapping[str, Preset | str]

    def policy(self, raw: Mapping[object, object], read: PolicyDocument | None, version: str) -> Policy | None:
        """The policy; where the shape was wrong, the readable rule lists are still checked for their own problems."""
        if read is None:
            self._check_lists(raw)
            return None
        tools: dict[str, Scope] = {}
        for name, tool in read.tools.items():
            self._check_tool(name)
            tools[name] = self._scope(tool, name, ("tools", name))
        return Policy(
            version=version,
            mode=Mode(read.mode),
            anonymous=Anonymous(read.anonymous),
            global_scope=self._scope(read.global_, GLOBAL_SCOPE, ("global",)),
            tools=MappingProxyType(tools),
            tests=tuple(self._test(test, ("tests", index)) for index, test in enumerate(read.tests)),
            source=self.document.source,
            presets=versions_of(self.presets, (read.global_.use, *(tool.use for tool in read.tools.values()))),
        )

    def _check_tool(self, name: str) -> None:
        try:
            tool_id(name)
        except ValueError as error:
            self.document.problem(("tools", name), str(error))

    def _check_lists(self, raw: Mapping[object, object]) -> None:
        tools = raw.get("tools")
        scopes: list[tuple[DocumentPath, object]] = [(("global",), raw.get("global"))]
        if isinstance(tools, dict):
            scopes += [(("tools", str(name)), tool) for name, tool in tools.items()]
        for path, scope in scopes:
            for key in _RULE_LISTS:
                entries = scope.get(key) if isinstance(scope, dict) else None
                if isinstance(entries, list):
                    RuleReader(self.document).rules(entries, str(path[-1]), (*path, key), denies=key == "deny")

    def _scope(self, read: GlobalDocument, name: str, path: DocumentPath) -> Scope:
        own = RuleReader(self.document).rules(read.allow, name, (*path, "allow"), denies=False)
        used = self._used(read.use, (*path, "use"))
        allow = HostIndex((*own, *self._brought(used, name, own)))
        quiet = tuple(pattern for preset in used for pattern in preset.quiet)
        deny = HostIndex(RuleReader(self.document).rules(read.deny, name, (*path, "deny"), denies=True))
        if not isinstance(read, ToolDocument):
            return Scope(allow, deny, use=tuple(read.use), quiet=quiet)
        if read.hold is not None and read.on_deny != "ask":
            self.document.problem((*path, "hold"), "'hold' waits for the answer to a question; add 'on_deny: ask'")
        for index, whom in enumerate(read.may_request):
            if whom not in (OWN_RULES, GLOBAL_SCOPE) and not is_tool_id(whom):
                self.document.problem(
                    (*path, "may_request", index), f"{whom!r} is nobody to ask for; write self, global or a tool id"
                )
        return Scope(
            allow,
            deny,
            self._public(read, name, path),
            inherit_global=read.inherit_global,
            limits=_limits(read.limits),
            mode=None if read.mode is None else Mode(read.mode),
            on_deny=OnDeny(read.on_deny),
            hold=read.hold or 0.0,
            may_request=frozenset(read.may_request),
            use=tuple(read.use),
            quiet=quiet,
        )

    def _public(self, read: ToolDocument, name: str, path: DocumentPath) -> Rule | None:
        """`public: true` as a rule of its own, so that each reader of rules knows it."""
        if not read.public:
            return None
        if replace(_limits(read.limits), denials_per_minute=None) == NO_LIMITS:
            self.document.problem((*path, "public"), _PUBLIC_NEEDS_LIMITS)
        origin = f"{self.document.source}:{self.document.line((*path, 'public')) or 1} {path_text(path)}.public"
        return Rule(
            rule_id(name, PUBLIC_INTERNET, denies=False), name, denies=False, pattern=PUBLIC_INTERNET, origin=origin
        )

    def _used(self, names: Sequence[str], path: DocumentPath) -> list[Preset]:
        used: list[Preset] = []
        for index, name in enumerate(names):
            preset = self.presets.get(name, f"there is no preset {name!r}")
            if isinstance(preset, str):
                self.document.problem((*path, index), preset)
            elif name in names[:index]:
                self.document.problem((*path, index), f"{name!r} is there twice; remove one of them")
            else:
                used.append(preset)
        return used

    def _brought(self, presets: Sequence[Preset], scope: str, own: Sequence[Rule]) -> list[Rule]:
        """The rules of the presets in this scope. What the file itself, or an earlier preset, says already stands."""
        known = {rule.id for rule in own}
        rules: list[Rule] = []
        for preset in presets:
            reader = RuleReader(DocumentReader(f"preset {preset.name}", {}))
            for rule in reader.rules(preset.allow, scope, ("allow",), denies=False):
                if rule.id not in known:
                    known.add(rule.id)
                    rules.append(replace(rule, origin=f"preset {preset.name}", preset=preset.name))
        return rules

    def _test(self, read: TestDocument, path: DocumentPath) -> PolicyTest:
        if not read.allow and not read.deny:
            self.document.problem(path, "a test without URLs tests nothing; add 'allow: [...]' or 'deny: [...]'")
        return PolicyTest(read.tool, tuple(read.allow), tuple(read.deny), self.document.line(path))


def _limits(read: LimitsDocument) -> Limits:
    return Limits(read.concurrent, read.requests_per_minute, read.bytes_per_hour, read.denials_per_minute)
