"""What `explain` tells, as data and as lines."""

from __future__ import annotations

import ipaddress
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.editing.describe import injected
from cloned_proxy.cli.place.arguments import typed
from cloned_proxy.cli.place.context import existing_workspace, policy_in
from cloned_proxy.cli.show.errors import FAILED, CommandError
from cloned_proxy.cli.show.output import iso_time, paint, put, put_json, visible
from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.callers.challenge import challenged
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.deciding.bypass import read_bypass
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_unseen
from cloned_proxy.policy.deciding.refusal import refused
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.hints.hint import owner_hint
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.paths.registry_path import package_of
from cloned_proxy.policy.terms.address import classify
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.policy.terms.reasons import MENDABLE
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.proxy.enforce.enforced import Enforced, as_enforced, closed_in, is_front
from cloned_proxy.proxy.upstream.lookup import Addresses
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.rule_use import rule_use
from cloned_proxy.store.workspaces.workspace import Workspace

_STYLES: Final = {"allow": "green", "report": "yellow", "deny": "red"}
_REFUSED: Final = Verdict.DENY.name.lower()
_DECIDED_BY_POLICY: Final = MENDABLE | {Reason.ALLOWED, Reason.EXPLICIT_DENY, Reason.ADDRESS_NOT_ALLOWED}
"""What another policy would have decided otherwise; the rest is about who asked and how."""
_DECISION_ID: Final = re.compile(r"[0-9a-f]{24}")
_EDIT: Final = re.compile(r"cloned-proxy (allow|deny|remove)\b")


def print_verdict(
    what: str,
    *,
    tool: str | None = None,
    method: str | None = None,
    resolve: bool = False,
    workspace: Path | None = None,
    policy: Path | None = None,
    as_json: bool = False,
) -> int:
    """As `explain --help` says; returns the exit code. Raises CommandError, PolicyError or StoreError."""
    told = explained(what, tool=tool, method=method, resolve=resolve, workspace=workspace, policy_file=policy)
    if as_json:
        put_json(told)
    else:
        for line in lines(told):
            put(line)
    return FAILED if told["verdict"] == _REFUSED or told["failure"] else 0


def explained(
    what: str, *, tool: str | None, method: str | None, resolve: bool, workspace: Path | None, policy_file: Path | None
) -> dict[str, Any]:
    """The decision on a URL, or what became of a recorded one. Raises CommandError, PolicyError and StoreError."""
    place = existing_workspace(workspace)
    _, policy = policy_in(place, policy_file)
    if _DECISION_ID.fullmatch(what):
        if tool is not None or method is not None:
            raise CommandError("a decision on record has its tool and method; leave --tool and --method out")
        return _published(_recorded(what, place, policy, resolve=resolve), place, policy_file)
    if tool is not None:
        typed(tool_id, tool)
    url, verb = _as_url(what), (method or "GET").upper()
    caller = ANONYMOUS if tool is None else Principal(tool)
    use = rule_use(place)
    decision = decide_url(policy, caller, url, verb, time.time(), use.spent(policy), ended=use.ended(policy))
    if decision.reason is Reason.MALFORMED_REQUEST:
        raise CommandError(f"{what!r} is not a request that a client could send; write http(s)://HOST[:PORT]/PATH")
    enforced = _enforced(decision, place, ask=resolve)
    enforced = replace(enforced, decision=challenged(policy, caller, enforced.decision))
    told = _told(enforced, https=url.lower().startswith("https"))
    return _published({"url": url, "method": verb, **told, "policy": policy.version}, place, policy_file)


def _published(told: dict[str, Any], place: Workspace, policy_file: Path | None) -> dict[str, Any]:
    """On a replica no rule is edited: the edit is made where the fleet's policy is published, and then published."""
    if place.policy_path(policy_file) == place.fleet_policy and _EDIT.search(told["hint"]):
        publish = "cloned-proxy fleet publish --reason TEXT"
        told["hint"] = f"where the fleet's policy is published: {told['hint']}; then {publish}"
    return told


def _as_url(text: str) -> str:
    """A host alone, with or without a port and a path, is read as https."""
    if "://" in text:
        return text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"https://{text}" if "/" in text else f"https://{text}/"
    return f"https://[{text}]/" if address.version == 6 else f"https://{text}/"  # noqa: PLR2004  the IP version


def _recorded(identifier: str, place: Workspace, policy: Policy, *, resolve: bool) -> dict[str, Any]:
    """A decision as it was made, and what the policy says to the same request now."""
    entry = None
    if place.state_db.exists():
        with AuditLog(place.state_db) as log:
            entry = log.decision(identifier)
    if entry is None:
        raise CommandError(f"{identifier}: no decision on record has this id; `cloned-proxy log` shows what there is")
    body, now = entry.body, None
    if body["reason"] in _DECIDED_BY_POLICY:
        now = _told(_again(body, place, policy, resolve=resolve), https=False)
    address = body.get("refused_address", "")  # a log may be older than the field
    return {
        "decision": identifier,
        "at": iso_time(body["at"]),
        "url": _target(body),
        "method": body["method"],
        "tool": body["tool"],
        "verdict": body["verdict"],
        "reason": body["reason"],
        "rule": _rule_of(body["rule"], policy),
        "addresses": _addresses([address]) if address else None,
        "failure": "",
        "inspected": False,
        "hint": body["hint"] if now is None else now["hint"],
        "now": now,
        "policy": body["policy"],
    }


def _again(body: dict[str, Any], place: Workspace, policy: Policy, *, resolve: bool) -> Enforced:
    """The same request under the policy as it is; the name at the address that refused it, unless it is asked anew."""
    caller = ANONYMOUS if body["tool"] is None else Principal(body["tool"])
    inner = body["method"] not in ("", "CONNECT")
    request = Request(body["host"], body["port"], body["method"] if inner else None, body["path"] if inner else None)
    use = rule_use(place)
    decision = decide(policy, caller, request, time.time(), use.spent(policy), ended=use.ended(policy))
    address = body.get("refused_address", "")
    known = (ipaddress.ip_address(address),) if address and not resolve else None
    return _enforced(decision, place, ask=resolve, known=known)


def _enforced(decision: Decision, place: Workspace, *, ask: bool, known: Addresses | None = None) -> Enforced:
    if decision.host is not None and _looked_up_in_front(decision.host, place):
        judged = decide_unseen(decision)
        if judged.passes and is_front(place, judged):
            judged = refused(judged, Reason.ADDRESS_NOT_ALLOWED)
        return Enforced(judged, in_front=judged.passes)
    if decision.passes and is_front(place, decision):
        return Enforced(refused(decision, Reason.ADDRESS_NOT_ALLOWED))
    return as_enforced(decision, closed_in(place, decision, ask=ask), ask=ask, known=known)


def _looked_up_in_front(host: Host, place: Workspace) -> bool:
    """Whether the proxy in front alone looks the host up, so that no address of it is known here."""
    upstream = place.upstream_settings()
    if (upstream.proxy is None and upstream.pac is None) or upstream.resolve != "upstream":
        return False
    return read_bypass(upstream.no_proxy).leaves_to_front(host)


def _target(body: dict[str, Any]) -> str:
    return f"{host_port(body['host'], body['port'])}{body['path']}"


def _rule_of(identifier: str, policy: Policy) -> dict[str, Any] | None:
    """A rule by its id; its place only while it is there."""
    if not identifier:
        return None
    rule = next((rule for rule in policy.rules if rule.id == identifier), None)
    if rule is None:
        return {"id": identifier, "scope": None, "origin": "it is gone by now", "inject": None}
    return {"id": rule.id, "scope": rule.scope, "origin": rule.origin, "inject": injected(rule)}


def _addresses(addresses: list[str]) -> list[dict[str, str]]:
    return [{"address": text, "class": classify(ipaddress.ip_address(text)).value} for text in addresses]


def _told(enforced: Enforced, *, https: bool) -> dict[str, Any]:
    decision, rule = enforced.decision, enforced.decision.rule
    addresses = enforced.addresses
    return {
        "tool": decision.tool,
        "verdict": decision.verdict.name.lower(),
        "reason": decision.reason.value,
        "rule": None
        if rule is None
        else {
            "id": rule.id,
            "scope": rule.scope,
            "origin": rule.origin,
            "inject": injected(rule),
            "registry": _age_told(decision),
        },
        # None: not looked up, so an address that the rule does not open would still refuse it.
        "addresses": None if addresses is None else _addresses([str(address) for address in addresses]),
        "failure": enforced.failure,
        # Names go to the proxy in front as they are: no address is known here, and no class of one is checked.
        "looked_up_in_front": enforced.in_front,
        # A refused CONNECT is never opened, although its decision carries the mark for a near miss.
        "inspected": decision.passes and (decision.inspect or (rule is not None and rule.needs_inspection and https)),
        "hint": owner_hint(decision),
    }


def _age_told(decision: Decision) -> str | None:
    """What the rule means for the package that the path names; None for a rule without `registry`."""
    registry = None if decision.rule is None else decision.rule.registry
    if registry is None:
        return None
    package = package_of(registry, decision.request.path)
    if package and registry.exempts(package):
        return f"{registry.in_words()}: {package} passes at any age"
    return f"{registry.in_words()}: what is younger is left out of metadata, and its files are refused"


def lines(told: dict[str, Any]) -> list[str]:
    """For people: the verdict first, the next step last."""
    verdict, rule = told["verdict"], told["rule"]
    shown = [f"{paint(verdict, _STYLES[verdict])}  {told['method']} {visible(told['url'])}"]
    if "decision" in told:
        shown.append(f"at      {told['at']}, decision {told['decision']}, policy {told['policy']}")
    shown.append(f"tool    {visible(told['tool'] or '(none: an anonymous caller)')}")
    if verdict != Verdict.ALLOW.name.lower():
        shown.append(f"reason  {told['reason']}")
    shown.append(f"rule    {rule['id']}  {rule['origin']}" if rule else "rule    none covers it")
    shown += _address_lines(told)
    if rule and rule["inject"] and verdict != _REFUSED:
        shown.append(f"inject  {rule['inject']}, which the proxy adds to the request")
    if rule and rule.get("registry") and verdict != _REFUSED:
        shown.append(f"age     {rule['registry']}")
    if told["inspected"]:
        shown.append("tls     opened with the workspace CA, each request in it decided again")
    if now := told.get("now"):
        shown.append(f"now     {paint(now['verdict'], _STYLES[now['verdict']])}{_why_now(now)}")
    if told["hint"]:
        shown.append(f"to do   {in_this_shell(told['hint'])}")
    return shown


def _address_lines(told: dict[str, Any]) -> list[str]:
    if told["failure"]:
        return [f"address {visible(told['failure'])}; the proxy answers 502 or 504"]
    if told["addresses"] is not None:
        known = (f"{each['address']} ({each['class'].replace('_', '-')})" for each in told["addresses"])
        return [f"address {', '.join(known)}"]
    if told["verdict"] == _REFUSED or "decision" in told:
        return []
    if told["looked_up_in_front"]:
        return ["address looked up by the upstream proxy alone: no address class is checked"]
    return ["address not looked up: --resolve asks DNS, and what the rule does not open would be refused"]


def _why_now(now: dict[str, Any]) -> str:
    if now["verdict"] == Verdict.ALLOW.name.lower():
        return f" by {now['rule']['id']}  {now['rule']['origin']}" if now["rule"] else ""
    return f"  {now['reason']}"
