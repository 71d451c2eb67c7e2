"""A person's decision on a request of a tool: a small signed object, and all that a replica needs to follow it.

Who signs is an approver (`fleet.approvers`), or a publisher (`fleet.trust`), who may say anything; never a replica. An
approval ends at a time of the store's clock, so a host whose clock is wrong ends it with the others.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.approvals.approval import Proposal, entry_data
from cloned_proxy.store.approvals.approval_errors import NeverAllowedError
from cloned_proxy.store.approvals.approval_mirror import entry_of
from cloned_proxy.store.approvals.approval_rules import checked
from cloned_proxy.store.approvals.evidence import MAX_NARROWEST
from cloned_proxy.store.policyfile.policy_entry import Action, Entry, rules_of

PAYLOAD_TYPE: Final = "application/vnd.cloned-proxy.decision+json"
LONGEST_SECONDS: Final = 30 * 86_400.0
SKEW_SECONDS: Final = 2 * 3600.0
"""So far may a host's clock be off. An approval that ended longer ago is an old one that is offered again, one that was
decided more than that ahead was signed by a wrong time, and one that a store offers with a wrong time ends then."""


@dataclass(frozen=True, slots=True)
class FleetDecision:
    """Times are Unix seconds of the store's clock."""

    fleet: str
    request: str
    about: str
    """What was decided (`approval_rules.key_of`): requests are not signed, and a store can show another of this id."""
    verdict: Literal["approved", "rejected"]
    asker: str
    tool: str | None
    """Whose rules it is about; None: everybody's."""
    action: Action
    entries: tuple[Entry, ...]
    uses: int | None
    decided: float
    ends: float
    by: str
    """`device:<name>` or `cli:<user>`."""
    replica: str
    """On which it was decided."""
    reason: str

    def rules(self) -> tuple[Rule, ...]:
        """What it opens or denies. Each id is of this decision alone, so that its uses are counted by themselves."""
        why = f"request {self.request}: {self.reason}" if self.reason else f"request {self.request}"
        entries = tuple(replace(entry, max_uses=self.uses, reason=why) for entry in self.entries)
        found = rules_of(Proposal(entries, self.tool, self.action).addition)
        origin = f"approval {self.request}"
        return tuple(replace(rule, id=_own_id(self.request, rule.id), origin=origin) for rule in found)


def _own_id(request: str, rule: str) -> str:
    return "r-" + hashlib.sha256(f"{request}\n{rule}".encode()).hexdigest()[:10]


def seal_decision(decision: FleetDecision, key: SigningKey) -> bytes:
    """The envelope that `read_decision` reads."""
    fields = asdict(decision) | {"entries": [entry_data(entry) for entry in decision.entries]}
    return seal(json.dumps(fields, sort_keys=True).encode(), PAYLOAD_TYPE, [key])


def read_decision(raw: bytes, trust: Trust, fleet: str, request: str) -> FleetDecision:
    """Raises EnvelopeError for one that nobody trusted has signed, is about something else, or opens what never may."""
    payload = trust.open(raw, PAYLOAD_TYPE).payload
    try:
        fields: dict[str, Any] = json.loads(payload)
        found = FleetDecision(**(fields | {"entries": tuple(map(entry_of, fields["entries"]))}))
        ranges = 0 < found.ends - found.decided <= LONGEST_SECONDS
        if found.verdict not in {"approved", "rejected"} or found.action not in {"allow", "deny"} or not ranges:
            raise ValueError("a field has a value that it cannot have")  # noqa: TRY301  told below
        checked(Proposal(found.entries, found.tool, found.action, uses=found.uses), most=MAX_NARROWEST)
        found.rules()
    except (ValueError, KeyError, TypeError, AttributeError, NeverAllowedError, PolicyError) as error:
        raise EnvelopeError(Refused.FORMAT, f"signed, and no decision ({type(error).__name__}: {error})") from None
    if found.fleet != fleet:
        raise EnvelopeError(Refused.FLEET, f"it is for the fleet {found.fleet}")
    if found.request != request:
        raise EnvelopeError(Refused.CONFLICT, f"it is about the request {found.request}, and offered for {request}")
    return found
