"""What was refused, by tool and host: with what would allow it, where a rule may."""

from __future__ import annotations

from collections.abc import Container
from ipaddress import ip_address
from typing import Annotated, Final

from pydantic import Field

from cloned_proxy.control.endpoints.decisions import Tool
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.control.record import Record, Wanted
from cloned_proxy.policy.address import classify
from cloned_proxy.policy.caller import ANONYMOUS, Principal
from cloned_proxy.policy.decide import decide
from cloned_proxy.policy.hint import ALLOWABLE, owner_hint
from cloned_proxy.policy.host import HostError, parse_host
from cloned_proxy.policy.model import DEFAULT_PORTS, Address, Host, Policy, Reason, Request
from cloned_proxy.policy.offer import why_not_offered
from cloned_proxy.proxy.enforced import as_enforced, listeners_of
from cloned_proxy.store.policy_file import load_policy
from cloned_proxy.store.tally import EVERY_TOOL, OTHER, BlockedGroup, Tally

_DAY: Final = 86_400.0
_LOOKED_AT: Final = 20


class BlockedQuery(Query):
    since: Annotated[float, Field(ge=0, le=1e11)] | None = None
    """Unix seconds; the hour that it lies in is counted whole. None: the last day."""
    tool: Tool | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 200


class ReasonCount(Strict):
    reason: str
    count: int


class EntryHint(Strict):
    """What a rule would name, at the least."""

    host: str
    ports: list[int]


class GroupAnswer(Strict):
    tool: str | None
    host: str
    port: int
    count: int
    first: float
    last: float
    reasons: list[ReasonCount]
    methods: list[str]
    paths: list[str]
    allowable: bool
    """Whether a new rule is offered: not for what is denied by name, malformed, or about identity, nor for addresses
    such as the metadata service's."""
    allowed_now: bool
    """Whether enforcement would let them pass by now."""
    entry: EntryHint | None
    refused_address: str
    """The newest address that refused the name; "" where none did."""
    refused_class: str
    hint: str


class BlockedAnswer(Strict):
    groups: list[GroupAnswer]


def _blocked(call: Call) -> BlockedAnswer:
    parts, query = call.parts, call.query
    since = parts.clock() - _DAY if query.since is None else query.since
    with Tally(parts.workspace.state_db) as tally:
        groups = tally.blocked(since=since, tool=query.tool or EVERY_TOOL, limit=query.limit)
    place = parts.workspace
    policy = load_policy(place.policy_path(parts.policy_file), parts.clock(), place.presets)
    own = listeners_of(place)
    return BlockedAnswer(
        groups=[_answer(group, policy, parts.clock(), own, _refused_at(parts.record, group)) for group in groups]
    )


def _refused_at(record: Record, group: BlockedGroup) -> Address | None:
    """The address that refused the newest of these calls whose name was resolved; None when none was."""
    if Reason.ADDRESS_NOT_ALLOWED not in {reason for reason, _ in group.reasons}:
        return None
    wanted = Wanted(group.tool, group.host, "deny", Reason.ADDRESS_NOT_ALLOWED)
    for _, body in record.decisions(wanted, limit=_LOOKED_AT).entries:
        if (body["tool"], body["host"]) == (group.tool, group.host) and body.get("refused_address"):
            return ip_address(body["refused_address"])
    return None


def _answer(
    group: BlockedGroup, policy: Policy, now: float, own: Container[tuple[Address, int]], refused_at: Address | None
) -> GroupAnswer:
    host = _host(group.host)
    reasons = {Reason(reason) for reason, _ in group.reasons}
    allowable = host is not None and not why_not_offered(host) and not reasons.isdisjoint(ALLOWABLE)
    caller = ANONYMOUS if group.tool is None else Principal(group.tool)
    method = next((method for method in group.methods if method not in ("", "CONNECT")), None)
    path = next(iter(group.paths), None) if method is not None else None
    # A name is not asked for in DNS here; what it resolved to when it was refused stands for what it would now.
    decision = as_enforced(
        decide(policy, caller, Request(group.host, group.port, method, path), now),
        own,
        ask=False,
        known=None if refused_at is None else (refused_at,),
    ).decision
    return GroupAnswer(
        tool=group.tool,
        host=group.host,
        port=group.port,
        count=group.count,
        first=group.first,
        last=group.last,
        reasons=[ReasonCount(reason=reason, count=count) for reason, count in group.reasons],
        methods=list(group.methods),
        paths=list(group.paths),
        allowable=allowable,
        allowed_now=host is not None and decision.passes,
        entry=EntryHint(host=group.host, ports=_ports(group.port)) if allowable else None,
        refused_address="" if refused_at is None else str(refused_at),
        refused_class="" if refused_at is None else classify(refused_at).value,
        hint=owner_hint(decision) if host is not None else "",
    )


def _ports(port: int) -> list[int]:
    return sorted(DEFAULT_PORTS) if port in DEFAULT_PORTS else [port]


def _host(text: str) -> Host | None:
    """None for what could not be read, and for the hosts that the roll-up does not tell apart."""
    try:
        return None if text == OTHER else parse_host(text)
    except HostError:
        return None


OPERATIONS: Final = (
    Operation("GET", "/blocked", "What was refused, by tool and host", _blocked, BlockedAnswer, query=BlockedQuery),
)
