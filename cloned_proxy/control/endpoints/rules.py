"""The rules in the policy file, with what is known of their use; adding and removing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from cloned_proxy.control.endpoints.decisions import Host, Tool
from cloned_proxy.control.endpoints.terms import Duration, Reason, Uses, Version, editing
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.policy.terms.rule import PatternKind, Rule
from cloned_proxy.policy.terms.units import format_duration
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.policyfile.rule_change import RuleChange
from cloned_proxy.store.policyfile.rule_use import RuleUse, rule_use

RULE_ID: Final = "r-[0-9a-f]{10}"
_MANY: Final = 64


type Ports = Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(max_length=_MANY)]
type Methods = Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=_MANY)]
type Paths = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=_MANY)]
type ToolId = Annotated[str, Field(max_length=256), AfterValidator(tool_id)]


type _Kind = Literal["exact", "one_label", "any_depth", "address", "cidr", "public"]
_KINDS: Final[Mapping[PatternKind, _Kind]] = {
    PatternKind.EXACT: "exact", PatternKind.ONE_LABEL: "one_label", PatternKind.ANY_DEPTH: "any_depth",
    PatternKind.ADDRESS: "address", PatternKind.CIDR: "cidr", PatternKind.PUBLIC: "public",
}  # fmt: skip


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
    exceptions: list[str] | None
    """What a deny leaves to the other rules: `except` in the file."""
    kind: _Kind
    """What `host` is; `cidr` is a network, `public` the whole public internet."""
    inject_header: str | None
    registry: str | None
    """Kind, least age and exempt packages, in words."""
    expires: float | None
    max_uses: int | None
    idle: str | None
    """After how long without a byte a flow is cut, as in the file (`2h`); None: by the setting."""
    uses_left: int | None
    hits: int
    last_hit: float | None
    reason: str
    origin: str
    place: str
    """Where it stands, short: file (below the project) and line, or the preset."""
    preset: str
    """The preset that it comes with; "" for a rule of the file itself."""


class RulesAnswer(Strict):
    version: str
    """Version of the file as it is now, for `expected_version`."""
    items: list[RuleAnswer]


class NewRule(Strict):
    """Whoever leaves `ports` out means 80 and 443."""

    action: Literal["allow", "deny"] = "allow"
    tool: ToolId | None = None
    """None: for everybody."""
    host: Host
    ports: Annotated[Ports, Field(default_factory=list)]
    methods: Annotated[Methods, Field(default_factory=list)]
    paths: Annotated[Paths, Field(default_factory=list)]
    protocols: Annotated[list[Literal["tls", "tcp", "ssh"]], Field(default_factory=list, max_length=2)]
    addresses: Annotated[list[Literal["private", "reserved"]], Field(default_factory=list, max_length=2)]
    exceptions: Annotated[list[Host], Field(default_factory=list, alias="except", max_length=_MANY)]
    """What a deny leaves to the other rules."""
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


class ChangeRule(Strict):
    """What is left out stays as it is; null, or an empty list, takes it away."""

    ports: Ports | None = None
    methods: Methods | None = None
    paths: Paths | None = None
    lasting: Annotated[Duration | None, Field(alias="for")] = None
    """From now on."""
    uses: Uses | None = None
    """From now on."""
    reason: Reason | None = None
    expected_version: Version | None = None
    update_tests: bool = False
    """As in a new rule."""

    def as_change(self, now: float) -> RuleChange:
        """In the words of the policy file."""
        sent = {name: getattr(self, name) for name in self.model_fields_set - {"expected_version", "update_tests"}}
        words = {_WORDS.get(name, name): value for name, value in sent.items()}
        terms = {name: value for name, value in words.items() if value not in (None, "", [])}
        if isinstance(lasting := terms.get("expires"), float):
            terms["expires"] = datetime.fromtimestamp(math.ceil(now + lasting), UTC)
        return RuleChange(terms, frozenset(words.keys() - terms.keys()))


_WORDS: Final = {"lasting": "expires", "uses": "max_uses"}


class RemoveQuery(Query):
    expected_version: Version | None = None
    reason: Reason = ""
    update_tests: bool = False


def _rules(call: Call) -> RulesAnswer:
    services, query = call.services, call.query
    place = services.workspace
    policy = load_policy(place.policy_path(services.policy_file), services.clock(), place.presets)
    use = rule_use(services.workspace)
    rules = [rule for rule in policy.rules if query.tool in (None, rule.scope)]
    project = f"{services.workspace.root.parent}/"
    return RulesAnswer(version=policy.version, items=[_answer(rule, use, project) for rule in rules])


def _answer(rule: Rule, use: RuleUse, project: str) -> RuleAnswer:
    return RuleAnswer(
        id=rule.id,
        scope=rule.scope,
        action="deny" if rule.denies else "allow",
        host=str(rule.pattern),
        ports=None if rule.denies else sorted(rule.ports),
        methods=sorted(rule.methods) if rule.methods is not None else None,
        paths=[path.text for path in rule.paths] if rule.paths is not None else None,
        protocols=rule.protocols,
        addresses=sorted(rule.addresses) or None,
        exceptions=[str(exception) for exception in rule.exceptions] or None,
        kind=_KINDS[rule.pattern.kind],
        inject_header=rule.inject.header if rule.inject is not None else None,
        registry=rule.registry.in_words() if rule.registry is not None else None,
        expires=rule.expires,
        max_uses=rule.max_uses,
        idle=None if rule.idle is None else format_duration(rule.idle),
        uses_left=max(0, rule.max_uses - use.used(rule)) if rule.max_uses is not None else None,
        hits=use.hit_count(rule),
        last_hit=use.last_hit(rule),
        reason=rule.reason,
        origin=rule.origin,
        place=rule.origin if rule.preset else rule.origin.removeprefix(project).partition(" ")[0],
        preset=rule.preset,
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
        exceptions=tuple(body.exceptions),
        expires=call.services.clock() + seconds if seconds is not None else None,
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


def _change(call: Call) -> EditAnswer:
    body: ChangeRule = call.body
    change = body.as_change(call.services.clock())
    if not change.terms and not change.dropped:
        raise ApiError(422, "nothing to change: name at least one of ports, methods, paths, for, uses, reason")
    with editing(call) as service:
        policy = load_policy(service.path, call.services.clock(), service.presets)
        rule = next((rule for rule in policy.rules if rule.id == call.path["id"]), None)
        if rule is None:
            raise ApiError(404, "there is no such rule in the file any more")
        if rule.preset:
            raise ApiError(422, f"the rule comes with the preset {rule.preset}; add one of your own beside it")
        result = service.change_rule(
            call.path["id"],
            change,
            actor=call.actor,
            why=redact(body.reason or ""),
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
    Operation("POST", "/rules/{id}", "Change a rule where it stands, or extend a lease", _change, EditAnswer,
              body=ChangeRule, places={"id": RULE_ID}, refusals=(404, 409)),
    Operation("DELETE", "/rules/{id}", "Take a rule back", _remove, EditAnswer,
              query=RemoveQuery, places={"id": RULE_ID}, refusals=(404, 409)),
)  # fmt: skip
