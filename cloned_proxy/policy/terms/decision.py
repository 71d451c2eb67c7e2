"""What a request asks, and the answer to it. `policy.deciding` alone makes one of the other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from cloned_proxy.policy.terms.network_index import NetworkIndex
from cloned_proxy.policy.terms.registry import Age
from cloned_proxy.policy.terms.rule import Address, Host, PatternKind, Rule
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """What one head asks for, as written by the caller: nothing in it is trusted or normalised yet."""

    host: str
    """The host as it was written, without brackets and without the port."""
    port: int
    method: str | None = None
    """None: a CONNECT, whose methods and paths cannot be seen (yet)."""
    path: str | None = None
    """Origin-form target with the query, when the method is known."""


class NetworkRules(NamedTuple):
    """The rules with `cidr:` of the scopes that a decision asked, for the addresses that its name resolves to."""

    allow: tuple[NetworkIndex, ...]
    deny: tuple[NetworkIndex, ...]
    at: float
    """Unix seconds."""
    ended: Collection[str]
    """Ids of the rules that have ended, as `decide` takes them."""


NO_NETWORKS: Final = NetworkRules((), (), 0.0, ())


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request. `policy.deciding.decide` makes it; later stages may only turn it into a refusal."""

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
    """With `address_not_allowed`, or an `explicit_deny` of its network: the one that refused it. Never told to a caller
    who did not send it."""
    networks: NetworkRules = field(default=NO_NETWORKS, repr=False, compare=False)
    narrowed: Decision | None = field(default=None, repr=False, compare=False)
    """What the policy says that narrows the one that decided; passes, if this one does."""
    age: Age | None = None
    """Only with `too_young`: which version is too young, and which one is old enough."""

    instead_of: Reason | None = None
    """Only with `identity_missing`: the reason for which the global rules refuse this caller, who is asked for a
    credential."""
    secret: str = ""
    """Only with `secret_leak`: the secret's name, for the owner of the log. No decision holds its value."""

    @property
    def must_be_ssh(self) -> bool:
        """Whether a tunnel carries SSH and nothing else."""
        return any(each.rule is not None and each.rule.only_ssh for each in (self, self.narrowed) if each is not None)

    @property
    def names_its_host(self) -> bool:
        """Whether the rule at hand names the host, rather than a pattern that happens to cover it."""
        rule = self.rule
        return rule is not None and not rule.denies and rule.pattern.kind in (PatternKind.EXACT, PatternKind.ADDRESS)

    @property
    def passes(self) -> bool:
        return self.verdict is not Verdict.DENY

    def denied(self, reason: Reason, *, secret: str = "") -> Decision:
        """What a later stage makes of it."""
        return replace(self, verdict=Verdict.DENY, reason=reason, secret=secret)
