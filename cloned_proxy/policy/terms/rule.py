"""One rule, and what it is made of: hosts, patterns of hosts and paths, a header to inject."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.policy.terms.registry import Registry
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PatternKind(enum.Enum):
    EXACT = "exact"
    ONE_LABEL = "*."  # `*.example.com`: exactly one more label, never the apex
    ANY_DEPTH = "**."  # `**.example.com`: one or more labels, never the apex
    ADDRESS = "address"  # an IP literal: only the same literal in a request, never a name that resolves to it
    CIDR = "cidr"  # a network: every literal in it, and what the allowed names of its scope may resolve to
    PUBLIC = "public"  # `public: true` of a tool: any name and literal, at public addresses only


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
        return in_brackets(self.text)


@dataclass(frozen=True, slots=True)
class HostPattern:
    kind: PatternKind
    value: str
    """Canonical, without the wildcard: `example.com` for `*.example.com`; `10.20.0.0/16` for a network."""

    def __str__(self) -> str:
        wildcard = self.kind.value if self.is_wildcard else ""
        return wildcard + self.value

    @property
    def is_wildcard(self) -> bool:
        return self.kind in (PatternKind.ONE_LABEL, PatternKind.ANY_DEPTH)


PUBLIC_INTERNET: Final = HostPattern(PatternKind.PUBLIC, "public: true")
"""The pattern of `public: true`. It is spelled as in the file, which is no valid host."""


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path glob such as `/repos/**`, compiled by `policy.paths.path.parse_path_pattern`: one entry a segment."""

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
    """`r-` and 10 hex digits of a hash over scope, action, pattern, ports, methods, paths, protocols, addresses,
    exceptions, `registry` and the injected header's name. Not over `expires`, `max_uses`, `idle` and `reason`: a
    renewed lease is one rule."""
    scope: str
    """`global`, or the tool id."""
    denies: bool
    pattern: HostPattern
    ports: frozenset[int] = DEFAULT_PORTS
    """The ports that the rule opens. A deny ignores them, because it covers every port."""
    methods: frozenset[str] | None = None
    paths: tuple[PathPattern, ...] | None = None
    """The paths that the rule covers, for a deny in any reading of them; None: every path."""
    exceptions: tuple[HostPattern, ...] = ()
    """Hosts or networks below its pattern that a deny does not cover (`except:`)."""
    raw_tcp: bool = False
    """`protocols: [tcp]`: a tunnel may carry anything, not only TLS for the CONNECT host."""
    only_ssh: bool = False
    """`protocols: [ssh]`: a tunnel carries SSH (RFC 4253) instead of TLS, and plain HTTP does not pass."""
    addresses: frozenset[str] = frozenset()
    """Words of `policy.terms.address.AddressWord`: what the name may resolve to beside public addresses."""
    expires: float | None = None
    """Unix seconds."""
    max_uses: int | None = None
    idle: float | None = None
    """Seconds without a byte in either direction after which a flow is cut; None: as config.yaml says."""
    inject: Inject | None = None
    registry: Registry | None = None
    """The host is a package registry, of which nothing is let through that is too young."""
    reason: str = ""
    origin: str = ""
    """Where a person finds it: `policy.yaml:14 tools.demo@v1.allow[2]`, or `preset NAME`."""
    preset: str = ""
    """The preset that brought it; "" for a rule of the file itself."""

    @property
    def needs_inspection(self) -> bool:
        """Whether TLS must be opened for this rule to be enforced."""
        return (
            self.methods is not None or self.paths is not None or self.inject is not None or self.registry is not None
        )

    @property
    def protocols(self) -> list[str] | None:
        """The value of `protocols:` in the policy file; None: TLS for the CONNECT host, and plain HTTP."""
        return ["tcp"] if self.raw_tcp else ["ssh"] if self.only_ssh else None

    @property
    def is_lease(self) -> bool:
        """Whether it ends by itself."""
        return self.expires is not None or self.max_uses is not None
