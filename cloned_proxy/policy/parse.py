"""A policy document (plain data, as YAML or JSON gives it) becomes a `Policy`, or every problem in it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ValidationError

from cloned_proxy.policy.documents import (
    DenyDocument,
    GlobalDocument,
    InjectDocument,
    LimitsDocument,
    PolicyDocument,
    RuleDocument,
    TestDocument,
    ToolDocument,
)
from cloned_proxy.policy.host import parse_pattern
from cloned_proxy.policy.identity import valid_tool_id
from cloned_proxy.policy.messages import explain, kind_of, not_a_host
from cloned_proxy.policy.model import (
    DEFAULT_PORTS,
    GLOBAL_SCOPE,
    OWN_RULES,
    Anonymous,
    HostIndex,
    HostPattern,
    Inject,
    Limits,
    Mode,
    OnDeny,
    PathPattern,
    Policy,
    PolicyTest,
    Rule,
    Scope,
)
from cloned_proxy.policy.path import parse_path_pattern
from cloned_proxy.policy.preset import NO_PRESETS, Preset, versions_of
from cloned_proxy.policy.problem import DocumentPath, Problem
from cloned_proxy.policy.rule_id import details_of, rule_id


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
    reader = _Reader(source, lines, presets)
    if document is None or document == {}:
        reader.problem((), "the file is empty; start with 'version: 1'")
    elif not isinstance(document, dict):
        reader.problem((), f"a policy is a mapping that starts with 'version: 1', not {kind_of(document)}")
    else:
        read = reader.struct(PolicyDocument, document, ())
        policy = reader.policy(document, read, version)
        if policy is not None and not reader.problems:
            return policy
    raise PolicyError(reader.in_file_order(), source)


_RULE_LISTS: Final = ("allow", "deny")
_INJECT_NEEDS_PORTS: Final = (
    "a rule with 'inject' says its ports, because the usual ones hold 80, where the secret would travel in the clear; "
    "add 'ports: [443]'"
)


def _path_text(path: DocumentPath) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "(file)"


@dataclass(slots=True)
class _Reader:
    """Reads one document and collects what is wrong with it."""

    source: str
    lines: Mapping[DocumentPath, int]
    presets: Mapping[str, Preset | str] = NO_PRESETS
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: DocumentPath) -> int | None:
        """The line of the nearest ancestor whose line is known."""
        if (line := self.lines.get(path)) is not None:
            return line
        for end in range(len(path) - 1, -1, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return line
        return None

    def problem(self, path: DocumentPath, message: str) -> None:
        self.problems.append(Problem(_path_text(path), self.line(path), message))

    def in_file_order(self) -> tuple[Problem, ...]:
        return tuple(sorted(self.problems, key=lambda problem: problem.line or 0))

    def struct[T: BaseModel](self, model: type[T], value: object, path: DocumentPath) -> T | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=True):
                where = tuple(step for step in detail["loc"] if step != "[key]")
                self.problem((*path, *where), explain(detail, model, where))
            return None

    def policy(self, document: Mapping[object, object], read: PolicyDocument | None, version: str) -> Policy | None:
        """The policy; where the shape was wrong, the readable rule lists are still checked for their own problems."""
        if read is None:
            self._check_lists(document)
            return None
        tools: dict[str, Scope] = {}
        for name, tool in read.tools.items():
            if not valid_tool_id(name):
                self.problem(("tools", name), f"{name!r} is not a tool id; write one such as cloned.mcp.web.search@v1")
            tools[name] = self.scope(tool, name, ("tools", name))
        return Policy(
            version=version,
            mode=Mode(read.mode),
            anonymous=Anonymous(read.anonymous),
            global_scope=self.scope(read.global_, GLOBAL_SCOPE, ("global",)),
            tools=MappingProxyType(tools),
            tests=tuple(self.test(test, ("tests", index)) for index, test in enumerate(read.tests)),
            source=self.source,
            presets=versions_of(self.presets, (read.global_.use, *(tool.use for tool in read.tools.values()))),
        )

    def _check_lists(self, document: Mapping[object, object]) -> None:
        tools = document.get("tools")
        scopes: list[tuple[DocumentPath, object]] = [(("global",), document.get("global"))]
        if isinstance(tools, dict):
            scopes += [(("tools", str(name)), tool) for name, tool in tools.items()]
        for path, scope in scopes:
            for key in _RULE_LISTS:
                entries = scope.get(key) if isinstance(scope, dict) else None
                if isinstance(entries, list):
                    self.rules(entries, str(path[-1]), (*path, key), denies=key == "deny")

    def scope(self, read: GlobalDocument, name: str, path: DocumentPath) -> Scope:
        own = self.rules(read.allow, name, (*path, "allow"), denies=False)
        used = self.used(read.use, (*path, "use"))
        allow = HostIndex((*own, *self.brought(used, name, own)))
        quiet = tuple(pattern for preset in used for pattern in preset.quiet)
        deny = HostIndex(self.rules(read.deny, name, (*path, "deny"), denies=True))
        if not isinstance(read, ToolDocument):
            return Scope(allow, deny, use=tuple(read.use), quiet=quiet)
        if read.hold is not None and read.on_deny != "ask":
            self.problem((*path, "hold"), "'hold' waits for the answer to a question; add 'on_deny: ask'")
        for index, whom in enumerate(read.may_request):
            if whom not in (OWN_RULES, GLOBAL_SCOPE) and not valid_tool_id(whom):
                self.problem(
                    (*path, "may_request", index), f"{whom!r} is nobody to ask for; write self, global or a tool id"
                )
        return Scope(
            allow,
            deny,
            inherit_global=read.inherit_global,
            limits=_limits(read.limits),
            mode=None if read.mode is None else Mode(read.mode),
            on_deny=OnDeny(read.on_deny),
            hold=read.hold or 0.0,
            may_request=frozenset(read.may_request),
            use=tuple(read.use),
            quiet=quiet,
        )

    def used(self, names: Sequence[str], path: DocumentPath) -> list[Preset]:
        used: list[Preset] = []
        for index, name in enumerate(names):
            preset = self.presets.get(name, f"there is no preset {name!r}")
            if isinstance(preset, str):
                self.problem((*path, index), preset)
            elif name in names[:index]:
                self.problem((*path, index), f"{name!r} is there twice; remove one of them")
            else:
                used.append(preset)
        return used

    def brought(self, presets: Sequence[Preset], scope: str, own: Sequence[Rule]) -> list[Rule]:
        """The rules of the presets in this scope. What the file itself, or an earlier preset, says already stands."""
        known = {rule.id for rule in own}
        rules: list[Rule] = []
        for preset in presets:
            reader = _Reader(f"preset {preset.name}", {})
            for rule in reader.rules(preset.allow, scope, ("allow",), denies=False):
                if rule.id not in known:
                    known.add(rule.id)
                    rules.append(replace(rule, origin=f"preset {preset.name}", preset=preset.name))
        return rules

    def rules(self, entries: Sequence[object], scope: str, path: DocumentPath, *, denies: bool) -> list[Rule]:
        rules: list[Rule] = []
        seen: dict[str, int] = {}
        place = _path_text(path)
        for index, entry in enumerate(entries):
            rule = self.rule(entry, scope, (*path, index), place, denies=denies)
            if rule is None:
                continue
            first = seen.setdefault(rule.id, index)
            if first != index:
                line = self.line((*path, first))
                other = f"line {line}" if line is not None else _path_text((*path, first))
                self.problem((*path, index), f"says the same as {other}; remove one of them")
            rules.append(rule)
        return rules

    def rule(self, entry: object, scope: str, path: DocumentPath, place: str, *, denies: bool) -> Rule | None:
        origin = f"{self.source}:{self.line(path) or 1} {place}[{path[-1]}]"
        if isinstance(entry, str):
            pattern = self.pattern(entry, path)
            if pattern is None:
                return None
            return Rule(rule_id(scope, pattern, denies=denies), scope, denies, pattern, origin=origin)
        if not isinstance(entry, dict):
            self.pattern(entry, path)
            return None
        if denies:
            return self.deny_rule(entry, scope, path, origin)
        return self.allow_rule(entry, scope, path, origin)

    def deny_rule(self, entry: object, scope: str, path: DocumentPath, origin: str) -> Rule | None:
        read = self.struct(DenyDocument, entry, path)
        pattern = self.pattern(read.host, (*path, "host")) if read is not None else None
        if read is None or pattern is None:
            return None
        return Rule(
            rule_id(scope, pattern, denies=True),
            scope,
            True,
            pattern,
            expires=read.expires,
            reason=read.reason,
            origin=origin,
        )

    def allow_rule(self, entry: object, scope: str, path: DocumentPath, origin: str) -> Rule | None:
        read = self.struct(RuleDocument, entry, path)
        if read is None:
            return None
        pattern = self.pattern(read.host, (*path, "host"))
        paths = None if read.paths is None else self.paths(read.paths, (*path, "paths"))
        raw_tcp = "tcp" in (read.protocols or ())
        for key in ("methods", "paths", "inject"):
            if raw_tcp and getattr(read, key) is not None:
                message = f"'{key}' needs TLS to be opened, and 'protocols: [tcp]' says it may not be TLS; remove one"
                self.problem((*path, key), message)
        if read.inject is not None and read.ports is None and not raw_tcp:
            self.problem((*path, "inject"), _INJECT_NEEDS_PORTS)
        if pattern is None:
            return None
        ports = DEFAULT_PORTS if read.ports is None else frozenset(read.ports)
        methods = None if read.methods is None else frozenset(read.methods)
        details = details_of(ports, methods, paths, read, raw_tcp=raw_tcp)
        return Rule(
            id=rule_id(scope, pattern, denies=False, details=details),
            scope=scope,
            denies=False,
            pattern=pattern,
            ports=ports,
            methods=methods,
            paths=paths,
            raw_tcp=raw_tcp,
            addresses=frozenset(read.addresses or ()),
            expires=read.expires,
            max_uses=read.max_uses,
            idle=read.idle,
            inject=_inject(read.inject),
            reason=read.reason,
            origin=origin,
        )

    def pattern(self, value: object, path: DocumentPath) -> HostPattern | None:
        if not isinstance(value, str):
            self.problem(path, not_a_host(value))
            return None
        try:
            return parse_pattern(value)
        except ValueError as error:
            self.problem(path, str(error))
            return None

    def paths(self, texts: Sequence[str], path: DocumentPath) -> tuple[PathPattern, ...]:
        patterns: list[PathPattern] = []
        for index, text in enumerate(texts):
            try:
                patterns.append(parse_path_pattern(text))
            except ValueError as error:
                self.problem((*path, index), str(error))
        return tuple(patterns)

    def test(self, read: TestDocument, path: DocumentPath) -> PolicyTest:
        if not read.allow and not read.deny:
            self.problem(path, "a test without URLs tests nothing; add 'allow: [...]' or 'deny: [...]'")
        return PolicyTest(read.tool, tuple(read.allow), tuple(read.deny), self.line(path))


def _limits(read: LimitsDocument) -> Limits:
    return Limits(read.concurrent, read.requests_per_minute, read.bytes_per_hour)


def _inject(read: InjectDocument | None) -> Inject | None:
    return None if read is None else Inject(read.header, read.value, read.redact_echo)
