"""What was refused, by tool and host: with what would allow it, where a rule may, and how it would fare now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Annotated, Final, Literal

from pydantic import Field

from cloned_proxy.control.endpoints.decisions import Tool
from cloned_proxy.control.endpoints.terms import in_force
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.control.outlook import Outlook
from cloned_proxy.control.record import DecisionFilter, Record
from cloned_proxy.policy.hints.hint import allow_command, owner_hint
from cloned_proxy.policy.hints.offer import why_not_offered
from cloned_proxy.policy.terms.address import classify
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.reasons import MENDABLE
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS, Reason
from cloned_proxy.proxy.enforce.enforced import listeners_of
from cloned_proxy.store.audit.tally import EVERY_TOOL, OTHER, BlockedCall, BlockedGroup, Tally
from cloned_proxy.store.policyfile.rule_use import rule_use
from cloned_proxy.store.workspaces.ignored import IgnoredHosts

_DAY: Final = 86_400.0
_LOOKED_AT: Final = 20
_SHOWN: Final = 20
"""Methods and paths that are told of one host."""


class BlockedQuery(Query):
    since: Annotated[float, Field(ge=0, le=1e11)] | None = None
    """Unix seconds; the hour that it lies in is counted whole. None: the last day."""
    tool: Tool | None = None
    ignored: bool = False
    """Only the hosts that a person ignores, in place of the others."""
    limit: Annotated[int, Field(ge=1, le=500)] = 200


class ReasonCount(Strict):
    reason: str
    count: int


class PortCount(Strict):
    port: int
    count: int


class OfferAnswer(Strict):
    """One rule that would allow some of it: what `command` writes, in ports."""

    ports: list[int]
    """80 and 443 together, or one other."""
    command: str
    methods: list[str]
    paths: list[str]
    """Seen on these ports."""


class GroupAnswer(Strict):
    tool: str | None
    host: str
    ports: list[PortCount]
    """The most frequent first."""
    count: int
    first: float
    last: float
    reasons: list[ReasonCount]
    methods: list[str]
    paths: list[str]
    offers: list[OfferAnswer]
    """Empty where no rule is offered: for what is denied by name, malformed, or about identity, and for addresses such
    as the metadata service's."""
    now: Literal["refused", "reported", "allowed"]
    """How the same calls would fare now, as far as the policy can say; `allowed` only when every one of them would."""
    refused_address: str
    """The newest address that refused the name; "" where none did."""
    refused_class: str
    hint: str
    """What the most frequent of them would be told now; "" once it passes."""


class BlockedAnswer(Strict):
    groups: list[GroupAnswer]
    ignored: int
    """Hosts with refusals in this time that a person ignores."""


def _blocked(call: Call) -> BlockedAnswer:
    services, query = call.services, call.query
    since = services.clock() - _DAY if query.since is None else query.since
    ignored = {(found.tool, found.host) for found in IgnoredHosts(services.workspace.state_db).list()}
    with Tally(services.workspace.state_db) as tally:
        groups = tally.blocked(since=since, tool=query.tool or EVERY_TOOL, limit=query.limit + len(ignored))
    hidden = [group for group in groups if (group.tool, group.host) in ignored]
    shown = hidden if query.ignored else [group for group in groups if (group.tool, group.host) not in ignored]
    outlook = Outlook(in_force(call), rule_use(services.workspace), services.clock(), listeners_of(services.workspace))
    answers = [_answer(group, outlook, _refused_at(services.record, group)) for group in shown[: query.limit]]
    return BlockedAnswer(groups=answers, ignored=len(hidden))


def _refused_at(record: Record, group: BlockedGroup) -> Address | None:
    """The address that refused the newest of these calls whose name was resolved; None when none was."""
    if Reason.ADDRESS_NOT_ALLOWED not in {call.reason for call in group.calls}:
        return None
    wanted = DecisionFilter(group.tool, group.host, "deny", Reason.ADDRESS_NOT_ALLOWED)
    for _, body in record.decisions(wanted, limit=_LOOKED_AT).entries:
        if (body["tool"], body["host"]) == (group.tool, group.host) and body.get("refused_address"):
            return ip_address(body["refused_address"])
    return None


def _answer(group: BlockedGroup, outlook: Outlook, refused_at: Address | None) -> GroupAnswer:
    host = _host(group.host)
    methods, paths = _seen(group.calls)
    return GroupAnswer(
        tool=group.tool,
        host=group.host,
        ports=[PortCount(port=port, count=count) for port, count in _counted((c.port, c.count) for c in group.calls)],
        count=group.count,
        first=group.first,
        last=group.last,
        reasons=[ReasonCount(reason=r, count=n) for r, n in _counted((c.reason, c.count) for c in group.calls)],
        methods=methods,
        paths=paths,
        offers=_offers(group, host) if host is not None else [],
        now="refused" if host is None else outlook.of(group, refused_at).value,
        refused_address="" if refused_at is None else str(refused_at),
        refused_class="" if refused_at is None else classify(refused_at).value,
        hint=owner_hint(outlook.decision(group, group.calls[0], refused_at)) if host is not None else "",
    )


def _offers(group: BlockedGroup, host: Host) -> list[OfferAnswer]:
    """One for each set of ports that one command covers, the most frequent first."""
    if why_not_offered(host) or not any(call.reason in MENDABLE for call in group.calls):
        return []
    sets: dict[tuple[int, ...], list[BlockedCall]] = {}
    for call in group.calls:
        sets.setdefault(tuple(sorted(DEFAULT_PORTS)) if call.port in DEFAULT_PORTS else (call.port,), []).append(call)
    offers = []
    for ports, calls in sorted(sets.items(), key=lambda item: -sum(call.count for call in item[1])):
        methods, paths = _seen(calls)
        command = allow_command(host, ports[0], group.tool)
        offers.append(OfferAnswer(ports=list(ports), command=command, methods=methods, paths=paths))
    return offers


def _seen(calls: Sequence[BlockedCall]) -> tuple[list[str], list[str]]:
    methods = list(dict.fromkeys(call.method for call in calls))
    paths = list(dict.fromkeys(call.path for call in calls if call.path))
    return methods[:_SHOWN], paths[:_SHOWN]


def _counted[Value: (int, str)](pairs: Iterable[tuple[Value, int]]) -> list[tuple[Value, int]]:
    counts: Counter[Value] = Counter()
    for value, count in pairs:
        counts[value] += count
    return counts.most_common()


def _host(text: str) -> Host | None:
    """None for what could not be read, and for the hosts that the roll-up does not tell apart."""
    try:
        return None if text == OTHER else parse_host(text)
    except HostError:
        return None


OPERATIONS: Final = (
    Operation("GET", "/blocked", "What was refused, by tool and host", _blocked, BlockedAnswer, query=BlockedQuery),
)
