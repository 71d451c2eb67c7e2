"""The rules in the policy file, with what is known of their use; adding and removing them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from cloned_proxy.control.endpoints.decisions import Host, Tool
from cloned_proxy.control.endpoints.terms import Duration, Reason, Uses, Version, editing
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.policy.identity import valid_tool_id
from cloned_proxy.policy.model import Rule
from cloned_proxy.policy.redact import redact
from cloned_proxy.store.audit_log import AuditLog, RuleHits
from cloned_proxy.store.policy_edit import EditResult
from cloned_proxy.store.policy_entry import Addition, Entry
from cloned_proxy.store.policy_file import load_policy

RULE_ID: Final = "r-[0-9a-f]{10}"
_MANY: Final = 64


def _tool_id(text: str) -> str:
    if not valid_tool_id(text):
        raise ValueError("a tool id, such as cloned.mcp.web.search@v1")
    return text


type ToolId = Annotated[str, Field(max_length=256), AfterValidator(_tool_id)]


class RulesQuery(Query):
    tool: Tool | None = None
    """Only this tool's own rules."""


class RuleAnswer(Strict):
    id: str
    scope: str
    """`global`, or the tool."""
    action: Literal["allow", "deny"]
    host: str
    ports: list[int] | None
    """None for a deny, which is about every port."""
    methods: list[str] | None
    paths: list[str] | None
    protocols: list[str] | None
    addresses: list[str] | None
    inject_header: str | None
    expires: float | None
    max_uses: int | None
    uses_left: int | None
    hits: int
    last_hit: float | None
    reason: str
    origin: str


class RulesAnswer(Strict):
    version: str
    """Of the file as it is now, for `expected_version`."""
    items: list[RuleAnswer]


class NewRule(Strict):
    """Whoever leaves `ports` out means 80 and 443."""

    action: Literal["allow", "deny"] = "allow"
    tool: ToolId | None = None
    """None: for everybody."""
    host: Host
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(default_factory=list, max_length=_MANY)]
    methods: Annotated[list[Annotated[str, Field(max_length=32)]], Field(default_factory=list, max_length=_MANY)]
    paths: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(default_factory=list, max_length=_MANY)]
    protocols: Annotated[list[Literal["tls", "tcp"]], Field(default_factory=list, max_length=2)]
    addresses: Annotated[list[Literal["private", "reserved"]], Field(default_factory=list, max_length=2)]
    lasting: Annotated[Duration | None, Field(alias="for")] = None
    uses: Uses | None = None
    reason: Reason = ""
    expected_version: Version | None = None
    update_tests: bool = False
    """After `forbidden_by_test`: takes out of the file's `tests:` what the edit breaks."""


class EditAnswer(Strict):
    changed: bool
    """False when the policy said so already."""
    version: str
    rule_ids: list[str]
    diff: str
    tests: list[str]
    """What was taken out of the file's `tests:`."""


class RemoveQuery(Query):
    expected_version: Version | None = None
    reason: Reason = ""
    update_tests: bool = False


def _rules(call: Call) -> RulesAnswer:
    parts, query = call.parts, call.query
    place = parts.workspace
    policy = load_policy(place.policy_path(parts.policy_file), parts.clock(), place.presets)
    with AuditLog(parts.workspace.state_db) as log:
        hits, uses = log.rule_hits(), log.lease_uses()
    rules = [rule for rule in policy.rules if query.tool in (None, rule.scope)]
    return RulesAnswer(
        version=policy.version, items=[_answer(rule, hits.get(rule.id), uses.get(rule.id, 0)) for rule in rules]
    )


def _answer(rule: Rule, hits: RuleHits | None, used: int) -> RuleAnswer:
    return RuleAnswer(
        id=rule.id,
        scope=rule.scope,
        action="deny" if rule.denies else "allow",
        host=str(rule.pattern),
        ports=None if rule.denies else sorted(rule.ports),
        methods=sorted(rule.methods) if rule.methods is not None else None,
        paths=[path.text for path in rule.paths] if rule.paths is not None else None,
        protocols=["tcp"] if rule.raw_tcp else None,
        addresses=sorted(rule.addresses) or None,
        inject_header=rule.inject.header if rule.inject is not None else None,
        expires=rule.expires,
        max_uses=rule.max_uses,
        uses_left=max(0, rule.max_uses - used) if rule.max_uses is not None else None,
        hits=hits.hits if hits is not None else 0,
        last_hit=hits.last if hits is not None else None,
        reason=rule.reason,
        origin=rule.origin,
    )


def _add(call: Call) -> EditAnswer:
    body: NewRule = call.body
    seconds = body.lasting
    reason = redact(body.reason)
    entry = Entry(
        body.host,
        ports=tuple(body.ports),
        methods=tuple(body.methods),
        paths=tuple(body.paths),
        protocols=tuple(body.protocols),
        addresses=tuple(body.addresses),
        expires=call.parts.clock() + seconds if seconds is not None else None,
        max_uses=body.uses,
        reason=reason,
    )
    if body.action == "allow":
        entry = entry.opened_for_its_name()
    addition = Addition((entry,), body.tool, body.action)
    with editing(call) as service:
        result = service.add(
            [addition],
            actor=call.actor,
            why=reason,
            expected_version=body.expected_version,
            update_tests=body.update_tests,
        )
    return edit_answer(result)


def _remove(call: Call) -> EditAnswer:
    query: RemoveQuery = call.query
    with editing(call) as service:
        result = service.remove_rule(
            call.path["id"],
            actor=call.actor,
            why=redact(query.reason),
            expected_version=query.expected_version,
            update_tests=query.update_tests,
        )
    if result.missing:
        raise ApiError(404, "there is no such rule in the file any more")
    return edit_answer(result)


def edit_answer(result: EditResult) -> EditAnswer:
    """What an edit of the policy answers, whichever it was."""
    return EditAnswer(
        changed=result.changed,
        version=result.version,
        rule_ids=list(result.rule_ids),
        diff=result.diff,
        tests=list(result.tests),
    )


OPERATIONS: Final = (
    Operation("GET", "/rules", "The rules, and how they have been used", _rules, RulesAnswer, query=RulesQuery),
    Operation("POST", "/rules", "Add a rule, or renew one", _add, EditAnswer, body=NewRule, refusals=(409,)),
    Operation(
        "DELETE",
        "/rules/{id}",
        "Take a rule back",
        _remove,
        EditAnswer,
        query=RemoveQuery,
        places={"id": RULE_ID},
        refusals=(404, 409),
    ),
)
