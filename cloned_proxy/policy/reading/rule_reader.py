"""The entries of an `allow` or `deny` list become rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.reading.document_reader import DocumentReader, path_text
from cloned_proxy.policy.reading.documents import DenyDocument, InjectDocument, RuleDocument
from cloned_proxy.policy.reading.messages import not_a_host
from cloned_proxy.policy.reading.registry_reader import read_registry
from cloned_proxy.policy.reading.rule_id import deny_details_of, details_of, rule_id
from cloned_proxy.policy.terms.exception import parse_exception
from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.network import parse_network
from cloned_proxy.policy.terms.problem import DocumentPath
from cloned_proxy.policy.terms.rule import HostPattern, Inject, PathPattern, Rule
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS

_SSH_NEEDS_PORTS: Final = "the usual ports of a rule are 80 and 443, where nobody speaks SSH; add 'ports: [22]'"
_EITHER_SSH_OR_TLS: Final = "a tunnel under one rule carries SSH or TLS; write a rule for each"
_INJECT_NEEDS_PORTS: Final = (
    "a rule with 'inject' says its ports, because the usual ones hold 80, where the secret would travel in the clear; "
    "add 'ports: [443]'"
)


@dataclass(frozen=True, slots=True)
class RuleReader:
    """Reads the rule lists of one document, which collects their problems."""

    document: DocumentReader

    def rules(self, entries: Sequence[object], scope: str, path: DocumentPath, *, denies: bool) -> list[Rule]:
        """The rules of the list that stands at `path`; entries that cannot be read are problems of the document."""
        rules: list[Rule] = []
        seen: dict[str, int] = {}
        place = path_text(path)
        for index, entry in enumerate(entries):
            rule = self._rule(entry, scope, (*path, index), place, denies=denies)
            if rule is None:
                continue
            first = seen.setdefault(rule.id, index)
            if first != index:
                line = self.document.line((*path, first))
                other = f"line {line}" if line is not None else path_text((*path, first))
                self.document.problem((*path, index), f"says the same as {other}; remove one of them")
            rules.append(rule)
        return rules

    def _rule(self, entry: object, scope: str, path: DocumentPath, place: str, *, denies: bool) -> Rule | None:
        origin = f"{self.document.source}:{self.document.line(path) or 1} {place}[{path[-1]}]"
        if isinstance(entry, str):
            pattern = self._pattern(entry, path)
            if pattern is None:
                return None
            return Rule(rule_id(scope, pattern, denies=denies), scope, denies, pattern, origin=origin)
        if not isinstance(entry, dict):
            self._pattern(entry, path)
            return None
        if denies:
            return self._deny_rule(entry, scope, path, origin)
        return self._allow_rule(entry, scope, path, origin)

    def _deny_rule(self, entry: object, scope: str, path: DocumentPath, origin: str) -> Rule | None:
        read = self.document.struct(DenyDocument, entry, path)
        pattern = self._target(read, path, denies=True) if read is not None else None
        if read is None or pattern is None:
            return None
        paths = None if read.paths is None else self._paths(read.paths, (*path, "paths"))
        if paths is not None and read.cidr is not None:
            self.document.problem((*path, "paths"), "paths belong to a host, not to a network; name the host")
        exceptions = self._exceptions(pattern, read.except_ or (), (*path, "except"))
        return Rule(
            rule_id(scope, pattern, denies=True, details=deny_details_of(paths, exceptions)),
            scope,
            True,
            pattern,
            paths=paths,
            exceptions=exceptions,
            expires=read.expires,
            reason=read.reason,
            origin=origin,
        )

    def _allow_rule(self, entry: object, scope: str, path: DocumentPath, origin: str) -> Rule | None:
        read = self.document.struct(RuleDocument, entry, path)
        if read is None:
            return None
        pattern = self._target(read, path, denies=False)
        paths = None if read.paths is None else self._paths(read.paths, (*path, "paths"))
        protocol = self._protocol(read, path)
        self._check_what_goes_together(read, protocol, path)
        registry = read_registry(self.document, read, path) if read.registry is not None else None
        if pattern is None:
            return None
        ports = DEFAULT_PORTS if read.ports is None else frozenset(read.ports)
        methods = None if read.methods is None else frozenset(read.methods)
        details = details_of(ports, methods, paths, read, protocol=protocol)
        return Rule(
            id=rule_id(scope, pattern, denies=False, details=details),
            scope=scope,
            denies=False,
            pattern=pattern,
            ports=ports,
            methods=methods,
            paths=paths,
            raw_tcp=protocol == "tcp",
            only_ssh=protocol == "ssh",
            addresses=frozenset(read.addresses or ()),
            expires=read.expires,
            max_uses=read.max_uses,
            idle=read.idle,
            inject=_inject(read.inject),
            registry=registry,
            reason=read.reason,
            origin=origin,
        )

    def _check_what_goes_together(self, read: RuleDocument, protocol: str, path: DocumentPath) -> None:
        for key in ("methods", "paths", "inject", "registry"):
            if protocol and getattr(read, key) is not None:
                why = f"'protocols: [{protocol}]' says it may not be TLS"
                self.document.problem((*path, key), f"'{key}' needs TLS to be opened, and {why}; remove one")
        if read.inject is not None and read.ports is None and not protocol:
            self.document.problem((*path, "inject"), _INJECT_NEEDS_PORTS)
        if read.cidr is None:
            return
        if read.inject is not None:
            self.document.problem((*path, "inject"), "a secret goes to one host, not to a network; name the host")
        if read.addresses is not None:
            self.document.problem((*path, "addresses"), "a network says its addresses itself; leave 'addresses' out")
        if read.registry is not None:
            self.document.problem((*path, "registry"), "a registry is one host, not a network; name the host")

    def _target(self, read: RuleDocument | DenyDocument, path: DocumentPath, *, denies: bool) -> HostPattern | None:
        """The host or the network of an entry, which has one of them."""
        named = read.model_fields_set & {"host", "cidr"}
        if len(named) != 1:
            message = "'host' is missing; add 'host: ...'" if not named else "'host' and 'cidr' are two rules; split it"
            self.document.problem((*path, "host"), message)
            return None
        if "host" in named:
            return self._pattern(read.host, (*path, "host"))
        return self._network(read.cidr, (*path, "cidr"), denies=denies)

    def _network(self, value: object, path: DocumentPath, *, denies: bool) -> HostPattern | None:
        try:
            return parse_network(value if isinstance(value, str) else repr(value), denies=denies)
        except ValueError as error:
            self.document.problem(path, str(error))
            return None

    def _exceptions(self, pattern: HostPattern, texts: Sequence[str], path: DocumentPath) -> tuple[HostPattern, ...]:
        found: list[HostPattern] = []
        for index, text in enumerate(texts):
            try:
                found.append(parse_exception(pattern, text))
            except ValueError as error:
                self.document.problem((*path, index), str(error))
        return tuple(found)

    def _protocol(self, read: RuleDocument, path: DocumentPath) -> str:
        """What a tunnel may carry instead of TLS; "" for nothing."""
        named = read.protocols or ()
        if "tcp" in named:
            return "tcp"
        if "ssh" not in named:
            return ""
        if "tls" in named:
            self.document.problem((*path, "protocols"), _EITHER_SSH_OR_TLS)
        if read.ports is None:
            self.document.problem((*path, "protocols"), _SSH_NEEDS_PORTS)
        return "ssh"

    def _pattern(self, value: object, path: DocumentPath) -> HostPattern | None:
        if not isinstance(value, str):
            self.document.problem(path, not_a_host(value))
            return None
        try:
            return parse_pattern(value)
        except ValueError as error:
            self.document.problem(path, str(error))
            return None

    def _paths(self, texts: Sequence[str], path: DocumentPath) -> tuple[PathPattern, ...]:
        patterns: list[PathPattern] = []
        for index, text in enumerate(texts):
            try:
                patterns.append(parse_path_pattern(text))
            except ValueError as error:
                self.document.problem((*path, index), str(error))
        return tuple(patterns)


def _inject(read: InjectDocument | None) -> Inject | None:
    return None if read is None else Inject(read.header, read.value, read.redact_echo)
