"""Who asks: what a credential or a listener proves of a caller, or why it could not be named."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Final

from cloned_proxy.policy.terms.vocabulary import Reason


class CallerSource(enum.StrEnum):
    ANONYMOUS = "anonymous"
    CREDENTIAL = "credential"
    LISTENER = "listener"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, as a credential or the listener proves; `tool` None is an unnamed caller of the host listener."""

    tool: str | None
    run: str | None = None
    source: CallerSource = CallerSource.CREDENTIAL
    source_address: str = field(default="", compare=False)
    """As a load balancer in front has named it, for the record alone: it makes nobody another caller."""

    @property
    def inside(self) -> bool:
        """Whether it is a tool in a sandbox, where nobody can run `cloned-proxy`: only those have a listener."""
        return self.source is CallerSource.LISTENER


ANONYMOUS: Final = Principal(tool=None, source=CallerSource.ANONYMOUS)


@dataclass(frozen=True, slots=True)
class IdentityRefusal:
    """A caller that could not be named; `claimed` is the tool of a credential that is genuine but not accepted here."""

    reason: Reason
    claimed: str | None = None
    inside: bool = False
    """Whether the caller is inside of a sandbox, as `Principal.inside`."""
    source_address: str = field(default="", compare=False)
    """As `Principal.source_address`."""


type Caller = Principal | IdentityRefusal


def coming_from(caller: Caller, address: str) -> Caller:
    """The same caller, with where it comes from; "" is not known."""
    return replace(caller, source_address=address) if address else caller
