"""What `explain` tells, as data and as lines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.context import existing_workspace, policy_in
from cloned_proxy.cli.describe import injected
from cloned_proxy.cli.errors import CommandError
from cloned_proxy.cli.output import paint, visible
from cloned_proxy.policy.caller import ANONYMOUS, Principal
from cloned_proxy.policy.decide import decide_addresses
from cloned_proxy.policy.hint import hint
from cloned_proxy.policy.identity import valid_tool_id
from cloned_proxy.policy.model import Decision, Reason, Verdict
from cloned_proxy.policy.url import decide_url
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.store.rule_use import rule_use

_STYLES: Final = {"allow": "green", "report": "yellow", "deny": "red"}
_REFUSED: Final = Verdict.DENY.name.lower()


def explained(
    url: str, *, tool: str | None, method: str, workspace: Path | None, policy_file: Path | None
) -> dict[str, Any]:
    """The decision on a URL as the proxy makes it before it resolves the name. Raises CommandError, PolicyError."""
    place = existing_workspace(workspace)
    _, policy = policy_in(place, policy_file)
    if tool is not None and not valid_tool_id(tool):
        raise CommandError(f"{tool!r} is not a tool id; write one such as cloned.mcp.web.search@v1")
    caller = ANONYMOUS if tool is None else Principal(tool)
    use = rule_use(place)
    decision = decide_url(policy, caller, url, method, time.time(), use.spent(policy), ended=use.ended(policy))
    if decision.host is not None and decision.host.address is not None:
        # A literal needs no resolver, so what the proxy says about its address class can be told here as well.
        decision = decide_addresses(decision, (decision.host.address,), frozenset())
    if decision.reason is Reason.MALFORMED_REQUEST:
        raise CommandError(f"{url!r} is not a request that a client could send; write http(s)://HOST[:PORT]/PATH")
    return _told(url, method, policy.version, decision)


def _told(url: str, method: str, version: str, decision: Decision) -> dict[str, Any]:
    rule = decision.rule
    return {
        "url": url,
        "method": method,
        "tool": decision.tool,
        "verdict": decision.verdict.name.lower(),
        "reason": decision.reason.value,
        "rule": None
        if rule is None
        else {"id": rule.id, "scope": rule.scope, "origin": rule.origin, "inject": injected(rule)},
        # A refused CONNECT is never opened, although its decision carries the mark for a near miss.
        "inspected": decision.passes
        and (decision.inspect or (rule is not None and rule.needs_inspection and url.lower().startswith("https"))),
        "hint": hint(decision),
        "policy": version,
    }


def lines(told: dict[str, Any]) -> list[str]:
    """For people: the verdict first, the next step last."""
    verdict, rule = told["verdict"], told["rule"]
    shown = [f"{paint(verdict, _STYLES[verdict])}  {told['method']} {visible(told['url'])}"]
    shown.append(f"tool    {told['tool'] or '(none: an anonymous caller)'}")
    if verdict != Verdict.ALLOW.name.lower():
        shown.append(f"reason  {told['reason']}")
    shown.append(f"rule    {rule['id']}  {rule['origin']}" if rule else "rule    none covers it")
    if rule and rule["inject"] and verdict != _REFUSED:
        shown.append(f"inject  {rule['inject']}, which the proxy adds to the request")
    if told["inspected"]:
        shown.append("tls     opened with the workspace CA, each request in it decided again")
    if told["hint"]:
        shown.append(f"to do   {in_this_shell(told['hint'])}")
    return shown
