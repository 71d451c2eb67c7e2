"""`anonymous: challenge`: who is asked for a credential, and for what."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, Caller, CallerSource, IdentityRefusal, Principal
from cloned_proxy.policy.callers.challenge import challenged
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.hints.hint import hint
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import Reason
from tests.policy.tables import policy_of

NOW = 1_800_000_000.0

GLOBAL = {
    "allow": ["shared.example.com", {"host": "get.example.com", "methods": ["GET"]}],
    "deny": ["evil.example.com"],
}
TOOLS = {"demo@v1": {"allow": ["api.example.com"]}}
CONNECT = Request("api.example.com", 443)

CASES: list[tuple[str, Caller, Request, dict[str, object], Reason]] = [
    ("a tool's host", ANONYMOUS, CONNECT, {}, Reason.IDENTITY_MISSING),
    ("nobody's host: the record is the tool's", ANONYMOUS, Request("no.example", 443), {}, Reason.IDENTITY_MISSING),
    ("another port", ANONYMOUS, Request("shared.example.com", 22), {}, Reason.IDENTITY_MISSING),
    ("another method", ANONYMOUS, Request("get.example.com", 80, "POST", "/"), {}, Reason.IDENTITY_MISSING),
    ("a literal", ANONYMOUS, Request("192.0.2.1", 443), {}, Reason.IDENTITY_MISSING),
    ("what global allows", ANONYMOUS, Request("shared.example.com", 443), {}, Reason.ALLOWED),
    ("what global denies", ANONYMOUS, Request("evil.example.com", 443), {}, Reason.EXPLICIT_DENY),
    ("a literal that no rule can name", ANONYMOUS, Request("0x7f.1", 443), {}, Reason.IP_LITERAL),
    ("a name that is none", ANONYMOUS, Request("a..b", 443), {}, Reason.MALFORMED_REQUEST),
    ("no tool to be", ANONYMOUS, CONNECT, {"tools": {}}, Reason.HOST_NOT_ALLOWED),
    ("anonymous: global", ANONYMOUS, CONNECT, {"anonymous": "global"}, Reason.HOST_NOT_ALLOWED),
    ("anonymous: deny", ANONYMOUS, Request("shared.example.com", 443), {"anonymous": "deny"}, Reason.IDENTITY_MISSING),
    ("report mode", ANONYMOUS, CONNECT, {"mode": "report"}, Reason.HOST_NOT_ALLOWED),
    ("a tool", Principal("other@v1"), CONNECT, {}, Reason.HOST_NOT_ALLOWED),
    ("a slot", Principal("other@v1", source=CallerSource.LISTENER), CONNECT, {}, Reason.HOST_NOT_ALLOWED),
    ("a bad credential", IdentityRefusal(Reason.IDENTITY_INVALID), CONNECT, {}, Reason.IDENTITY_INVALID),
]


@pytest.mark.parametrize(
    ("caller", "request_", "head", "reason"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_who_is_asked(caller: Caller, request_: Request, head: dict[str, object], reason: Reason) -> None:
    policy = policy_of(**{"anonymous": "challenge", "global_": GLOBAL, "tools": TOOLS, **head})
    before = decide(policy, caller, request_, NOW)
    decision = challenged(policy, caller, before)
    assert (decision.reason, decision.passes) == (reason, before.passes)


def test_without_a_policy_nobody_is_asked() -> None:
    assert challenged(None, ANONYMOUS, decide(None, ANONYMOUS, CONNECT, NOW)).reason is Reason.POLICY_UNAVAILABLE


def test_the_hint_says_both_ways_and_no_address_that_the_caller_did_not_send() -> None:
    policy = policy_of(anonymous="challenge", global_=GLOBAL, tools=TOOLS)
    asked = challenged(policy, ANONYMOUS, decide(policy, ANONYMOUS, CONNECT, NOW))
    assert "cloned-proxy token TOOL" in hint(asked)
    assert hint(asked).endswith("without one: cloned-proxy allow api.example.com")
    named = decide(policy, ANONYMOUS, Request("shared.example.com", 443), NOW)
    private = challenged(policy, ANONYMOUS, decide_addresses(named, [ip_address("10.1.2.3")], ()))
    assert private.reason is Reason.IDENTITY_MISSING
    assert "10.1.2.3" not in hint(private)
