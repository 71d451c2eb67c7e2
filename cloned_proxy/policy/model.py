"""The words of a policy decision: what is asked, by whom, under which rules, and the answer.

Everything here is an immutable value. Nothing reads a file, a clock or the network; text becomes these values
in `policy.parse` and `policy.host`, and `policy.decide` is the only function that turns them into a verdict.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS: Final = frozenset({80, 443})
GLOBAL_SCOPE: Final = "global"
OWN_HOST: Final = "cloned.internal"
"""Where the proxy itself answers, in plain HTTP. No rule opens it: it is never looked up and never dialled."""
OWN_RULES: Final = "self"  # in `may_request`: the rules of the tool that asks


class Verdict(enum.IntEnum):
    """What happens to a request. The zero value denies, so a forgotten assignment denies too."""

    DENY = 0
    ALLOW = 1
    REPORT = 2  # passes only because of `report` mode; recorded with the reason that would have denied it


class Reason(enum.StrEnum):
    """Why: the vocabulary of contract section 5, used unchanged in answers, metrics and the audit log."""

    ALLOWED = "allowed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    PORT_NOT_ALLOWED = "port_not_allowed"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PATH_NOT_ALLOWED = "path_not_allowed"
    EXPLICIT_DENY = "explicit_deny"
    IP_LITERAL = "ip_literal"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    IDENTITY_MISSING = "identity_missing"
    IDENTITY_INVALID = "identity_invalid"
    IDENTITY_EXPIRED = "identity_expired"
    IDENTITY_MISMATCH = "identity_mismatch"
    SNI_MISMATCH = "sni_mismatch"
    SNI_MISSING = "sni_missing"
    HOST_HEADER_MISMATCH = "host_header_mismatch"
    PROTOCOL_NOT_ALLOWED = "protocol_not_allowed"
    MALFORMED_REQUEST = "malformed_request"
    LEASE_EXPIRED = "lease_expired"
    LEASE_USED_UP = "lease_used_up"
    LIMIT_EXCEEDED = "limit_exceeded"
    POLICY_UNAVAILABLE = "policy_unavailable"
    INTERNAL_ERROR = "internal_error"


class Mode(enum.StrEnum):
    ENFORCE = "enforce"
    REPORT = "report"


class Anonymous(enum.StrEnum):
    """What a caller of the host listener without a credential gets: the global rules, or nothing."""

    DENY = "deny"
    GLOBAL = "global"


class OnDeny(enum.StrEnum):
    REFUSE = "refuse"
    ASK = "ask"


class PatternKind(enum.Enum):
    EXACT = "exact"
    ONE_LABEL = "*."  # `*.example.com`: exactly one more label, never the apex
    ANY_DEPTH = "**."  # `**.example.com`: one or more labels, never the apex
    ADDRESS = "address"  # an IP literal: only the same literal in a request, never a name that resolves to it


@dataclass(frozen=True, slots=True)
class Host:
    """A destination host in canonical form: an A-label name (lower case, no trailing dot) or one IP literal."""

    text: str
    """`xn--fa-hia.de`, `192.0.2.1` or `2001:db8::1` (compressed, no brackets)."""
    address: Address | None = None
    """Set when, and only when, the caller wrote an IP literal."""

    @property
    def authority(self) -> str:
        """The host as it stands in front of `:port` (RFC 3986, section 3.2.2): IPv6 literals in brackets."""
        return f"[{self.text}]" if isinstance(self.address, ipaddress.IPv6Address) else self.text


@dataclass(frozen=True, slots=True)
class HostPattern:
    kind: PatternKind
    value: str
    """Canonical, without the wildcard: `example.com` for `*.example.com`."""

    def __str__(self) -> str:
        wildcard = self.kind.value if self.kind in (PatternKind.ONE_LABEL, PatternKind.ANY_DEPTH) else ""
        return wildcard + self.value


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path glob such as `/repos/**`, compiled by `policy.path.parse_path_pattern`: one entry a segment."""

    text: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inject:
    """A header that the proxy adds for this rule; `value` may hold `${vault:name}` references."""

    header: str
    value: str
    redact_echo: bool = True
    """Responses are searched for the secrets, which are taken out of heads and never passed on in bodies."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of an `allow` or `deny` list."""

    id: str
    """`r-` and 10 hex digits of a hash over scope, action, pattern, ports, methods, paths, protocols, addresses and
    the injected header's name. Not over `expires`, `max_uses`, `idle` and `reason`: a renewed lease is one rule."""
    scope: str
    """`global`, or the tool id."""
    denies: bool
    pattern: HostPattern
    ports: frozenset[int] = DEFAULT_PORTS
    """Not looked at for a deny: an explicit deny covers every port."""
    methods: frozenset[str] | None = None
    paths: tuple[PathPattern, ...] | None = None
    raw_tcp: bool = False
    """`protocols: [tcp]`: a tunnel may carry anything, not only TLS for the CONNECT host."""
    addresses: frozenset[str] = frozenset()
    """Words of `policy.address.AddressWord`: what the name may resolve to beside public addresses."""
    expires: float | None = None
    """Unix seconds."""
    max_uses: int | None = None
    idle: float | None = None
    """Seconds without a byte in either direction after which a flow is cut; None: as config.yaml says."""
    inject: Inject | None = None
    reason: str = ""
    origin: str = ""
    """Where a person finds it: `policy.yaml:14 tools.demo@v1.allow[2]`, or `preset NAME`."""
    preset: str = ""
    """The preset that brought it; "" for a rule of the file itself."""

    @property
    def needs_inspection(self) -> bool:
        """Whether TLS must be opened for this rule to be enforced."""
        return self.methods is not None or self.paths is not None or self.inject is not None

    @property
    def is_lease(self) -> bool:
        """Whether it ends by itself."""
        return self.expires is not None or self.max_uses is not None


def _specific_first(rule: Rule) -> tuple[bool, int, bool, bool]:
    # Inspected rules first, so that a broad rule beside one cannot skip its header injection; then those that open
    # addresses, which a plain one must not hide; leases last, so that a use is spent only where nothing lasts.
    return (not rule.needs_inspection, -len(rule.addresses), rule.is_lease, not rule.raw_tcp)


class HostIndex:
    """The rules of one list, found by host in time that depends on the labels of the name, not on the rules."""

    __slots__ = ("_any_depth", "_exact", "_one_label", "rules")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules: Final = tuple(rules)
        tables: dict[PatternKind, dict[str, list[Rule]]] = {kind: {} for kind in PatternKind}
        for rule in self.rules:
            tables[rule.pattern.kind].setdefault(rule.pattern.value, []).append(rule)
        # A name cannot look like an address in canonical form, so both share one table.
        self._exact = _frozen({**tables[PatternKind.EXACT], **tables[PatternKind.ADDRESS]})
        self._one_label = _frozen(tables[PatternKind.ONE_LABEL])
        self._any_depth = _frozen(tables[PatternKind.ANY_DEPTH])

    def __len__(self) -> int:
        return len(self.rules)

    def matching(self, host: Host) -> tuple[Rule, ...]:
        """Every rule whose pattern covers the host, the closest pattern first."""
        name = host.text
        found = self._exact.get(name, ())
        if host.address is not None:
            return found
        if self._one_label:
            found += self._one_label.get(name.partition(".")[2], ())
        if self._any_depth:
            parent = name.partition(".")[2]
            while parent:
                found += self._any_depth.get(parent, ())
                parent = parent.partition(".")[2]
        return found


def _frozen(table: dict[str, list[Rule]]) -> dict[str, tuple[Rule, ...]]:
    return {value: tuple(sorted(rules, key=_specific_first)) for value, rules in table.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one tool; None means unbounded."""

    concurrent: int | None = None
    requests_per_minute: int | None = None
    bytes_per_hour: int | None = None


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Scope:
    """The rules of one tool, or the global ones."""

    allow: HostIndex = field(default_factory=HostIndex)
    deny: HostIndex = field(default_factory=HostIndex)
    inherit_global: bool = True
    limits: Limits = NO_LIMITS
    on_deny: OnDeny = OnDeny.REFUSE
    hold: float = 0.0
    """Seconds a denied call may wait for an answer."""
    mode: Mode | None = None
    """The tool's own; None: that of the policy."""
    may_request: frozenset[str] = frozenset({OWN_RULES})
    """For whom the tool may ask for other rules: `self`, `global`, and tool ids."""
    use: tuple[str, ...] = ()
    """The presets whose rules stand behind the file's own in `allow`."""
    quiet: tuple[HostPattern, ...] = ()
    """Hosts that its presets know to be asked for and refused without harm: recorded, but no reason for an alarm."""


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """One entry of the file's `tests:`; `tool` None asks as an anonymous caller."""

    tool: str | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    line: int | None


EMPTY_SCOPE: Final = Scope()


@dataclass(frozen=True, slots=True)
class Policy:
    """One immutable version of the policy file. The empty policy denies everything."""

    version: str = ""
    """The first 12 hex digits of the SHA-256 of the file's bytes."""
    mode: Mode = Mode.ENFORCE
    anonymous: Anonymous = Anonymous.DENY
    global_scope: Scope = EMPTY_SCOPE
    tools: Mapping[str, Scope] = MappingProxyType({})
    tests: tuple[PolicyTest, ...] = ()
    source: str = ""
    presets: Mapping[str, str] = MappingProxyType({})
    """The presets in use by name, each with its version: the first 12 hex digits of the SHA-256 of its file."""

    def scope_of(self, tool: str | None) -> Scope:
        """The rules of a tool; one that the policy does not name has none of its own and inherits the global ones."""
        return self.tools.get(tool, EMPTY_SCOPE) if tool is not None else EMPTY_SCOPE

    @property
    def reporting(self) -> tuple[str, ...]:
        """The tools whose own mode lets pass what the policy would deny."""
        if self.mode is Mode.REPORT:
            return ()
        return tuple(tool for tool, scope in self.tools.items() if scope.mode is Mode.REPORT)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule, the global ones first, in file order."""
        scopes = (self.global_scope, *self.tools.values())
        return tuple(rule for scope in scopes for rule in (*scope.deny.rules, *scope.allow.rules))


@dataclass(frozen=True, slots=True)
class Request:
    """What one head asks for, as written by the caller: nothing in it is trusted or normalised yet."""

    host: str
    """Without brackets and without the port."""
    port: int
    method: str | None = None
    """None: a CONNECT, whose methods and paths cannot be seen (yet)."""
    path: str | None = None
    """Origin-form target with the query, when the method is known."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request. `policy.decide` makes it; later stages may only turn it into a refusal."""

    verdict: Verdict
    reason: Reason
    request: Request
    tool: str | None = None
    host: Host | None = None
    """Canonical; None only when the host could not be read."""
    rule: Rule | None = None
    """The rule that allowed or denied; None for a default deny."""
    inspect: bool = False
    """TLS of this tunnel must be opened, and each request in it decided again."""
    mode: Mode = Mode.ENFORCE
    refused_address: Address | None = None
    """With `address_not_allowed`: the one that refused it. Never told to a caller who did not send it."""

    @property
    def passes(self) -> bool:
        return self.verdict is not Verdict.DENY

    def denied(self, reason: Reason) -> Decision:
        """What a later stage makes of it."""
        return replace(self, verdict=Verdict.DENY, reason=reason)
