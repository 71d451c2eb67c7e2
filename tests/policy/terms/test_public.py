"""`public: true`: the public internet for one tool, and nothing private."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.hints.breadth import findings
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.rule import PatternKind
from cloned_proxy.policy.terms.vocabulary import Reason
from tests.policy.tables import policy_of
from tests.policy.terms.networks import LIMITS, NOW, asked, of_tool

PUBLIC = of_tool(
    {"host": "intra.example.com", "addresses": ["private"]},
    {"cidr": "10.20.0.0/16"},
    deny=("**.ads.example.com", {"cidr": "93.184.216.0/24"}),
    public=True,
    limits=LIMITS,
)
ON_THE_INTERNET = [
    ("anything.example", ("203.0.112.9",), 443, "allowed"),
    ("anything.example", ("203.0.112.9",), 80, "allowed"),
    ("anything.example", ("203.0.112.9",), 22, "host_not_allowed"),
    ("8.8.8.8", (), 443, "allowed"),
    ("2606:4700::1111", (), 443, "allowed"),
    ("anything.example", ("10.0.0.1",), 443, "address_not_allowed"),
    ("anything.example", ("10.20.3.4",), 443, "address_not_allowed"),  # no rule of its own for the network
    ("anything.example", ("203.0.112.9", "127.0.0.1"), 443, "address_not_allowed"),  # DNS rebinding
    ("anything.example", ("198.18.0.1",), 443, "address_not_allowed"),
    ("anything.example", ("169.254.169.254",), 443, "address_not_allowed"),
    ("anything.example", ("64:ff9b::808:808",), 443, "address_not_allowed"),
    ("intra.example.com", ("10.0.0.1",), 443, "allowed"),
    ("intra.example.com", ("10.20.3.4",), 443, "allowed"),
    ("x.ads.example.com", ("203.0.112.9",), 443, "explicit_deny"),
    ("other.example", ("93.184.216.34",), 443, "explicit_deny"),
    ("127.0.0.1", (), 443, "ip_literal"),
    ("10.0.0.1", (), 443, "ip_literal"),
    ("169.254.169.254", (), 80, "ip_literal"),
    ("::ffff:8.8.8.8", (), 443, "ip_literal"),
    ("::1", (), 443, "ip_literal"),
    ("127.1", ("127.0.0.1",), 80, "ip_literal"),
    ("localhost", ("127.0.0.1",), 443, "host_not_allowed"),
    ("intranet", ("203.0.112.9",), 443, "host_not_allowed"),
    ("cloned.internal", ("203.0.112.9",), 443, "host_not_allowed"),
]


@pytest.mark.parametrize(("host", "addresses", "port", "reason"), ON_THE_INTERNET)
def test_public_opens_the_public_internet_and_nothing_private(
    host: str, addresses: tuple[str, ...], port: int, reason: str
) -> None:
    found = addresses or (host,)
    assert asked(PUBLIC, host, *found, port=port).reason == reason


def test_public_is_for_its_tool_alone() -> None:
    for caller in (ANONYMOUS, Principal("other@v1")):
        assert decide(PUBLIC, caller, Request("anything.example", 443), NOW).reason is Reason.HOST_NOT_ALLOWED


def test_a_rule_of_the_global_scope_says_more_than_public() -> None:
    policy = policy_of(
        global_={
            "allow": [
                {"host": "lan.example.com", "addresses": ["private"]},
                {"host": "api.example", "paths": ["/v1/**"]},
            ]
        },
        tools={"demo@v1": {"public": True, "limits": LIMITS}},
    )
    assert asked(policy, "lan.example.com", "10.0.0.1").passes
    assert asked(policy, "api.example", "203.0.112.9").inspect
    assert asked(policy, "api.example", "203.0.112.9", method="GET", path="/v2").passes, "an allow narrows no other"


def test_public_is_marked() -> None:
    (rule,) = (rule for rule in PUBLIC.rules if rule.pattern.kind is PatternKind.PUBLIC)
    assert rule.origin == "policy.yaml:1 tools.demo@v1.public"
    assert any("EVERY public host" in str(finding) for finding in findings(PUBLIC))


def test_public_needs_a_limit_and_a_tool() -> None:
    with pytest.raises(PolicyError, match="add 'limits:"):
        of_tool(public=True)
    with pytest.raises(PolicyError, match="unknown key 'public'"):
        policy_of(global_={"public": True})
