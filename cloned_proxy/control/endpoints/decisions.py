"""Decisions as they are on record."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.control.record import DecisionFilter
from cloned_proxy.policy.terms.address import classify
from cloned_proxy.store.audit.audit_log import times_of

Tool = Annotated[str, Field(min_length=1, max_length=256)]
Host = Annotated[str, Field(min_length=1, max_length=255)]
Verdict = Literal["allow", "deny", "report"]
Seq = Annotated[int, Field(ge=0, le=2**62)]
DECISION_ID: Final = "[0-9a-f]{24}"


class DecisionsQuery(Query):
    tool: Tool | None = None
    host: Host | None = None
    """Also matches the names below it."""
    verdict: Verdict | None = None
    reason: Annotated[str, Field(max_length=40, pattern="^[a-z_]+$")] | None = None
    since: Annotated[float, Field(ge=0, le=1e11)] | None = None
    """Unix seconds."""
    before: Seq | None = None
    """`next` of the page before."""
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class DecisionAnswer(Strict):
    seq: int
    """Number of the entry in the log."""
    id: str
    at: float
    kind: str
    verdict: str
    reason: str
    tool: str | None
    run: str | None
    host: str
    port: int
    method: str
    path: str
    rule: str
    policy: str
    hint: str
    count: int
    """How many calls it stands for: equal denials in a row are one entry."""
    refused_address: str
    """With `address_not_allowed`: what the name resolved to; "" otherwise."""
    refused_class: str
    """`private`, `reserved`, `metadata` …: of that address."""


class DecisionsAnswer(Strict):
    items: list[DecisionAnswer]
    next: int | None
    """What to ask for as `before`; a page may be short, or empty, and still have a next one."""


def decision_answer(seq: int, body: dict[str, Any]) -> DecisionAnswer:
    """One entry of the log, without what only the log needs."""
    names = DecisionAnswer.model_fields.keys() - {"seq", "count", "refused_address", "refused_class"}
    address = body.get("refused_address", "")  # a log may be older than the field
    kind = classify(ip_address(address)).value if address else ""
    told = {name: body[name] for name in names}
    return DecisionAnswer(seq=seq, **told, count=times_of(body), refused_address=address, refused_class=kind)


def _decisions(call: Call) -> DecisionsAnswer:
    query: DecisionsQuery = call.query
    wanted = DecisionFilter(query.tool, query.host, query.verdict, query.reason)
    found = call.services.record.decisions(wanted, before=query.before, since=query.since, limit=query.limit)
    return DecisionsAnswer(items=[decision_answer(seq, body) for seq, body in found.entries], next=found.next)


def _decision(call: Call) -> DecisionAnswer:
    found = call.services.record.decision(call.path["id"])
    if found is None or found[1].get("type") != "decision":
        raise ApiError(404, "there is no decision with this id; the log may have let it go by age")
    return decision_answer(*found)


OPERATIONS: Final = (
    Operation("GET", "/decisions", "Decisions, the newest first", _decisions, DecisionsAnswer, query=DecisionsQuery),
    Operation(
        "GET",
        "/decisions/{id}",
        "One decision",
        _decision,
        DecisionAnswer,
        places={"id": DECISION_ID},
        refusals=(404,),
    ),
)
