"""A policy as one immutable value: the scopes with their rules, and what else the file says.

Nothing in these rooms (`vocabulary`, `rule`, `host_index`, `model`, `decision`) reads a file, a clock or the network;
text becomes these values in `policy.reading.parse` and `policy.terms.host`, and `policy.deciding.decide` turns them
into a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import HostPattern, Rule
from cloned_proxy.policy.terms.vocabulary import OWN_RULES, Anonymous, Mode, OnDeny


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one tool; None means unbounded, unless it says something else."""

    concurrent: int | None = None
    requests_per_minute: int | None = None
    bytes_per_hour: int | None = None
    denials_per_minute: int | None = None
    """Refused calls that are recorded one by one; None: as many as `audit.denials_per_minute` of config.yaml says."""


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Scope:
    """The rules of one tool, or the global ones."""

    allow: HostIndex = field(default_factory=HostIndex)
    deny: HostIndex = field(default_factory=HostIndex)
    public: Rule | None = None
    """`public: true`: the tool may reach the public internet and nothing private, wherever no other rule says more."""
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

    @property
    def allowing(self) -> tuple[Rule, ...]:
        """The rules that allow something, `public: true` first."""
        return self.allow.rules if self.public is None else (self.public, *self.allow.rules)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The scope's own rules, the denies first, in file order."""
        return (*self.deny.rules, *self.allowing)


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
    narrowed_by: Policy | None = None
    """What passes must pass this one as well (`policy.reading.narrow`)."""
    limits_before: Mapping[str, Limits] = MappingProxyType({})
    """By tool: its limits before they were narrowed."""

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
        return tuple(rule for scope in scopes for rule in scope.rules)
