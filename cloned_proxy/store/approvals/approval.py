"""A request for other rules, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from cloned_proxy.store.policyfile.policy_entry import Action, Addition, Entry

type ApprovalState = Literal["pending", "approved", "rejected", "expired"]
"""A conflict with a changed policy decides nothing, so it is no state: the request stays pending."""
type Origin = Literal["tool", "denied", "host"]
"""Asked by the tool itself, made of a denied call by `on_deny: ask`, or asked by a program of the host."""

_LIST_FIELDS: Final = ("ports", "methods", "paths", "protocols", "addresses")


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is asked for. `tool` None is the global scope; entries carry no terms, those are beside them."""

    entries: tuple[Entry, ...]
    tool: str | None
    action: Action = "allow"
    for_seconds: float | None = None
    """How long the rules would stand from the approval on; None: for good."""
    uses: int | None = None
    reason: str = ""

    @property
    def scope(self) -> Literal["global", "tool"]:
        return "global" if self.tool is None else "tool"

    @property
    def addition(self) -> Addition:
        """The hosts, tool and action of the proposal, without its terms."""
        return Addition(self.entries, self.tool, self.action)


@dataclass(frozen=True, slots=True)
class Approval:
    """One request and its state."""

    id: str
    created: float
    """Unix seconds, as all times here."""
    expires: float
    """When it is too late to decide."""
    asker: str
    """Tool id, or whoever asked from the host: `python:<user>`."""
    proposal: Proposal
    origin: Origin
    run: str | None
    state: ApprovalState
    decided_by: str
    """`cli:<user>`, `device:<name>`, `clock`; "" while pending."""
    decided_at: float | None
    decided_reason: str
    denied_count: int
    """How often it was asked for, or how many calls met the denial, the first one included."""
    policy_version: str
    """Version of the policy when the request was made."""
    rule_ids: tuple[str, ...]
    """What an approval put into the policy."""
    replica: str = ""
    """The replica of the fleet on which the request was made; "" for this one."""

    @property
    def scope(self) -> Literal["global", "tool"]:
        return self.proposal.scope

    @property
    def tool(self) -> str | None:
        """Whose rules would change; None: everybody's."""
        return self.proposal.tool

    @property
    def action(self) -> Action:
        return self.proposal.action

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.proposal.entries

    @property
    def for_seconds(self) -> float | None:
        return self.proposal.for_seconds

    @property
    def uses(self) -> int | None:
        return self.proposal.uses

    @property
    def reason(self) -> str:
        """What the tool says it is for: untrusted text, redacted and on one line."""
        return self.proposal.reason

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "state": self.state,
            "created": self.created,
            "expires": self.expires,
            "asker": self.asker,
            "run": self.run,
            "origin": self.origin,
            "scope": self.scope,
            "tool": self.tool,
            "action": self.action,
            "entries": [entry_data(entry) for entry in self.entries],
            "for_seconds": self.for_seconds,
            "uses": self.uses,
            "reason": self.reason,
            "denied_count": self.denied_count,
            "policy_version": self.policy_version,
            "decided_by": self.decided_by,
            "decided_at": self.decided_at,
            "decided_reason": self.decided_reason,
            "rule_ids": list(self.rule_ids),
            "replica": self.replica,
        }


def entry_data(entry: Entry) -> dict[str, Any]:
    """The host and what narrows it; without terms."""
    lists = {name: list(getattr(entry, name)) for name in _LIST_FIELDS}
    return {"host": entry.host, **{name: value for name, value in lists.items() if value}}
