"""The decision tables: each row asserts verdict and reason, and the pattern of the rule where there is one."""

# ruff: noqa: E501, RUF001  rows of a table stay on one line; look-alike characters are what is tested

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, IdentityRefusal, Principal
from cloned_proxy.policy.deciding.decide import Usage, decide, decide_limits, decide_tunnel
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.hints.hint import hint
from cloned_proxy.policy.model.model import Limits, Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict
from tests.policy.tables import policy_of

NOW = 1_800_000_000.0
TOOL = Principal("demo@v1")
POLICY = policy_of(
    global_={"allow": ["shared.example.com", "both.example.com"], "deny": ["evil.example.org", "**.bad.example.org"]},
    tools={
        "demo@v1": {
            "allow": [
                "api.example.com",
                "*.one.example.com",
                "**.deep.example.com",
                "xn--bcher-kva.example",
                "192.0.2.1",
                "2001:db8::1",
                "evil.example.org",
                "x.bad.example.org",
                "denied.example.com",
                "shadow.example.com",
                {"host": "ssh.example.com", "ports": [22, 8443]},
                {"host": "github.example.com", "methods": ["GET", "HEAD"], "paths": ["/repos/**", "/users/*/keys"]},
                {"host": "old.example.com", "expires": "2020-01-01T00:00:00Z"},
                {"host": "soon.example.com", "expires": "2099-01-01T00:00:00Z"},
                {"host": "raw.example.com", "protocols": ["tcp"]},
            ],
            "deny": [
                "denied.example.com",
                {"host": "shadow.example.com", "expires": "2020-01-01T00:00:00Z"},
            ],
        },
        "alone@v1": {"inherit_global": False, "allow": ["own.example.com"]},
    },
)
# host, port, the pattern of the rule that allows it
ALLOWED = [
    ("api.example.com", 443, "api.example.com"),
    ("api.example.com", 80, "api.example.com"),
    ("API.Example.COM", 443, "api.example.com"),
    ("api.example.com.", 443, "api.example.com"),
    ("ＡＰＩ.example.com", 443, "api.example.com"),
    ("api。example.com", 443, "api.example.com"),
    ("a.one.example.com", 443, "*.one.example.com"),
    ("A.ONE.example.com.", 443, "*.one.example.com"),
    ("a_b.one.example.com", 443, "*.one.example.com"),
    ("r3---sn.one.example.com", 443, "*.one.example.com"),
    ("a.deep.example.com", 443, "**.deep.example.com"),
    ("a.b.deep.example.com", 443, "**.deep.example.com"),
    ("a.b.c.d.e.deep.example.com", 443, "**.deep.example.com"),
    ("bücher.example", 443, "xn--bcher-kva.example"),
    ("BÜCHER.example", 443, "xn--bcher-kva.example"),
    ("xn--bcher-kva.example", 443, "xn--bcher-kva.example"),
    ("XN--BCHER-KVA.example", 443, "xn--bcher-kva.example"),
    ("192.0.2.1", 443, "192.0.2.1"),
    ("2001:db8::1", 443, "2001:db8::1"),
    ("2001:DB8:0:0::1", 443, "2001:db8::1"),
    ("ssh.example.com", 22, "ssh.example.com"),
    ("ssh.example.com", 8443, "ssh.example.com"),
    ("shared.example.com", 443, "shared.example.com"),
    ("soon.example.com", 443, "soon.example.com"),
    ("shadow.example.com", 443, "shadow.example.com"),
    ("raw.example.com", 443, "raw.example.com"),
]


@pytest.mark.parametrize(("host", "port", "pattern"), ALLOWED, ids=[f"{h}:{p}" for h, p, _ in ALLOWED])
def test_allowed(host: str, port: int, pattern: str) -> None:
    decision = decide(POLICY, TOOL, Request(host, port), NOW)
    assert (decision.verdict, decision.reason) == (Verdict.ALLOW, Reason.ALLOWED)
    assert decision.rule is not None
    assert str(decision.rule.pattern) == pattern


DENIED = [
    # confusion of apex, prefix, suffix and regular expressions
    *(
        (host, 443, Reason.HOST_NOT_ALLOWED)
        for host in (
            "example.com", "apiXexample.com", "evil-api.example.com", "api.example.com.evil.net", "api.example.comm",
            "xapi.example.com", "sub.api.example.com", "one.example.com", "a.b.one.example.com", "aone.example.com",
            "evil-one.example.com", "a.one.example.com.evil.net", "deep.example.com", "evildeep.example.com",
            "a.deep.example.com.net", "a.deepXexample.com", "localhost", "com", "unknown.test", "api-example.com",
            "own.example.com",
        )
    ),
    # ports
    ("api.example.com", 22, Reason.PORT_NOT_ALLOWED),
    ("api.example.com", 8080, Reason.PORT_NOT_ALLOWED),
    ("api.example.com", 65535, Reason.PORT_NOT_ALLOWED),
    ("ssh.example.com", 443, Reason.PORT_NOT_ALLOWED),
    ("192.0.2.1", 22, Reason.PORT_NOT_ALLOWED),
    ("api.example.com", 0, Reason.MALFORMED_REQUEST),
    ("api.example.com", -1, Reason.MALFORMED_REQUEST),
    ("api.example.com", 65536, Reason.MALFORMED_REQUEST),
    # spellings of addresses
    *(
        (host, 443, Reason.IP_LITERAL)
        for host in (
            "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0177.0.0.1",
            "127.0.0.01", "0", "0.0.0.0", "127.0.0.1.", "192.0.2.1.", "192.0.2.01", "192.0.2.2", "256.1.1.1", "1.2.3",
            "1.2.3.4.5", "a.b.1", "a.0x1", "foo.0x", "api.example.123", "１２７.0.0.1", "127。0。0。1", "::1",
            "::ffff:192.0.2.1", "::ffff:c000:201", "64:ff9b::7f00:1", "2001:db8::2", "::", "169.254.169.254",
            "0X7F.1", "１２７.１",
        )
    ),
    # names that readers disagree about, or that are none
    *(
        (host, 443, Reason.MALFORMED_REQUEST)
        for host in (
            "", ".", "..", "a..example.com", ".api.example.com", "api.example.com..", "api.example.com\x00.evil.net",
            "api.example.com evil.net", " api.example.com", "api.example.com\n", "api.example.com\t", "api%2eexample.com",
            "user@api.example.com", "api.example.com:443", "[2001:db8::1]", "fe80::1%eth0", "2001:db8::1%25lo", ":::",
            "api.example.com/", "api.example.com\\", "api.example.com?", "api.example.com#", "*.example.com", "-a.example.com",
            "a-.example.com", "a" * 64 + ".example.com", "a." * 130 + "com", "x" * 5000, "faß.de", "xn--fa-hia.de",
            "api․example.com", "xn--", "xn--a.com", "xn--bcher-kva-.example", "xn--api.example.com", "\u200d.com",
            "a\u200cb.com", "ⓐ\x00.com", "api\u3002\u3002example.com", "\ud800.com", "βόλος.com",
        )
    ),
    # explicit denies win
    ("denied.example.com", 443, Reason.EXPLICIT_DENY),
    ("DENIED.example.com.", 443, Reason.EXPLICIT_DENY),
    ("denied.example.com", 9999, Reason.EXPLICIT_DENY),
    ("evil.example.org", 443, Reason.EXPLICIT_DENY),
    ("x.bad.example.org", 443, Reason.EXPLICIT_DENY),
    ("y.x.bad.example.org", 443, Reason.EXPLICIT_DENY),
    # leases
    ("old.example.com", 443, Reason.LEASE_EXPIRED),
]  # fmt: skip


@pytest.mark.parametrize(("host", "port", "reason"), DENIED, ids=[f"{h[:40]!a}:{p}" for h, p, _ in DENIED])
def test_denied(host: str, port: int, reason: Reason) -> None:
    decision = decide(POLICY, TOOL, Request(host, port), NOW)
    assert (decision.verdict, decision.reason) == (Verdict.DENY, reason)
    assert (decision.rule is not None) == (reason is Reason.EXPLICIT_DENY)


INNER = [
    ("GET", "/repos/a", Reason.ALLOWED), ("HEAD", "/repos/a/b?q=../x", Reason.ALLOWED), ("GET", "/repos", Reason.ALLOWED),
    ("GET", "/repos/", Reason.ALLOWED), ("GET", "/%72epos/a", Reason.ALLOWED), ("GET", "/users/me/keys", Reason.ALLOWED),
    ("GET", "/repos/a%2fb", Reason.ALLOWED), ("GET", "/repos//a", Reason.ALLOWED), ("GET", "/repos/a;b", Reason.ALLOWED),
    ("POST", "/repos/a", Reason.METHOD_NOT_ALLOWED), ("get", "/repos/a", Reason.METHOD_NOT_ALLOWED),
    *(
        ("GET", path, Reason.PATH_NOT_ALLOWED)
        for path in (
            "/", "", "*", "/repo", "/reposx/a", "/x/repos/a", "/REPOS/a", "/repos/../admin", "/repos/./a", "/repos/%2e%2e/a",
            "/repos/.%2E/a", "/repos%2fa", "/repos\\a", "//repos/a", "/repos/%00", "/repos/%zz", "/repos/%",
            "/repos/\xe9", "/repos/..;/a", "/repos;b/a", "/repos/%252e%252e/a", "/repos/a#b", "/repos/a b", "/users//keys",
            "/users/a/b/keys", "http://github.example.com/repos/a",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "reason"), INNER, ids=[f"{m} {p!a}" for m, p, _ in INNER])
def test_methods_and_paths(method: str, path: str, reason: Reason) -> None:
    decision = decide(POLICY, TOOL, Request("github.example.com", 443, method, path), NOW)
    assert (decision.passes, decision.reason) == (reason is Reason.ALLOWED, reason)


def test_a_connect_under_a_rule_with_paths_is_inspected() -> None:
    assert decide(POLICY, TOOL, Request("github.example.com", 443), NOW).inspect
    assert not decide(POLICY, TOOL, Request("api.example.com", 443), NOW).inspect


STRICT = replace(POLICY, anonymous=policy_of(anonymous="deny").anonymous)
CALLERS = [
    (POLICY, ANONYMOUS, "shared.example.com", Reason.ALLOWED),
    (POLICY, ANONYMOUS, "api.example.com", Reason.HOST_NOT_ALLOWED),
    (POLICY, ANONYMOUS, "evil.example.org", Reason.EXPLICIT_DENY),
    (STRICT, ANONYMOUS, "shared.example.com", Reason.IDENTITY_MISSING),
    (POLICY, Principal(None), "shared.example.com", Reason.IDENTITY_MISSING),
    (POLICY, Principal("unknown@v1"), "shared.example.com", Reason.ALLOWED),
    (POLICY, Principal("unknown@v1"), "api.example.com", Reason.HOST_NOT_ALLOWED),
    (POLICY, Principal("alone@v1"), "own.example.com", Reason.ALLOWED),
    (POLICY, Principal("alone@v1"), "shared.example.com", Reason.HOST_NOT_ALLOWED),
    (POLICY, Principal("alone@v1"), "evil.example.org", Reason.EXPLICIT_DENY),
    (POLICY, IdentityRefusal(Reason.IDENTITY_INVALID), "shared.example.com", Reason.IDENTITY_INVALID),
    (POLICY, IdentityRefusal(Reason.IDENTITY_EXPIRED, "demo@v1"), "api.example.com", Reason.IDENTITY_EXPIRED),
    (POLICY, IdentityRefusal(Reason.IDENTITY_MISMATCH, "demo@v1"), "evil.example.org", Reason.IDENTITY_MISMATCH),
    (POLICY, IdentityRefusal(Reason.IDENTITY_INVALID), "a..b", Reason.MALFORMED_REQUEST),
    (Policy(), TOOL, "api.example.com", Reason.HOST_NOT_ALLOWED),
    (None, TOOL, "api.example.com", Reason.POLICY_UNAVAILABLE),
]


@pytest.mark.parametrize(("policy", "caller", "host", "reason"), CALLERS)
def test_callers(policy: Policy | None, caller: Principal | IdentityRefusal, host: str, reason: Reason) -> None:
    decision = decide(policy, caller, Request(host, 443), NOW)
    assert (decision.passes, decision.reason) == (reason is Reason.ALLOWED, reason)


REPORT = replace(POLICY, mode=Mode.REPORT)
REPORTED = [
    ("unknown.test", 443, TOOL, Verdict.REPORT, Reason.HOST_NOT_ALLOWED),
    ("api.example.com", 22, TOOL, Verdict.REPORT, Reason.PORT_NOT_ALLOWED),
    ("denied.example.com", 443, TOOL, Verdict.REPORT, Reason.EXPLICIT_DENY),
    ("198.51.100.1", 443, TOOL, Verdict.REPORT, Reason.IP_LITERAL),
    ("127.1", 443, TOOL, Verdict.DENY, Reason.IP_LITERAL),
    ("a..b", 443, TOOL, Verdict.DENY, Reason.MALFORMED_REQUEST),
    ("api.example.com", 443, Principal(None), Verdict.DENY, Reason.IDENTITY_MISSING),
    ("api.example.com", 443, TOOL, Verdict.ALLOW, Reason.ALLOWED),
]


@pytest.mark.parametrize(("host", "port", "caller", "verdict", "reason"), REPORTED)
def test_report_mode(host: str, port: int, caller: Principal, verdict: Verdict, reason: Reason) -> None:
    decision = decide(REPORT, caller, Request(host, port), NOW)
    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_a_used_up_rule_denies() -> None:
    rule = decide(POLICY, TOOL, Request("api.example.com", 443), NOW).rule
    assert rule is not None
    decision = decide(POLICY, TOOL, Request("api.example.com", 443), NOW, {rule.id})
    assert (decision.verdict, decision.reason) == (Verdict.DENY, Reason.LEASE_USED_UP)


TUNNELS = [
    ("api.example.com", ["api.example.com"], Reason.ALLOWED), ("api.example.com", ["API.example.com"], Reason.ALLOWED),
    ("api.example.com", ["evil.net"], Reason.SNI_MISMATCH), ("api.example.com", ["a..b"], Reason.SNI_MISMATCH),
    ("api.example.com", ["api.example.com"] * 2, Reason.SNI_MISMATCH), ("api.example.com", [], Reason.SNI_MISSING),
    ("api.example.com", None, Reason.PROTOCOL_NOT_ALLOWED), ("192.0.2.1", [], Reason.ALLOWED),
    ("192.0.2.1", ["evil.net"], Reason.SNI_MISMATCH), ("raw.example.com", None, Reason.ALLOWED),
]  # fmt: skip


@pytest.mark.parametrize(("host", "names", "reason"), TUNNELS)
def test_tunnels(host: str, names: list[str] | None, reason: Reason) -> None:
    after = decide_tunnel(decide(POLICY, TOOL, Request(host, 443), NOW), names)
    assert (after.passes, after.reason) == (reason is Reason.ALLOWED, reason)


@pytest.mark.parametrize(
    ("limits", "usage", "passes"),
    [
        (Limits(), Usage(10**6, 10**6, 10**12), True),
        (Limits(concurrent=2), Usage(1, 0, 0), True),
        (Limits(concurrent=2), Usage(2, 0, 0), False),
        (Limits(requests_per_minute=2), Usage(0, 2, 0), False),
        (Limits(bytes_per_hour=2), Usage(0, 0, 2), False),
    ],
)
def test_limits(limits: Limits, usage: Usage, *, passes: bool) -> None:
    after = decide_limits(decide(POLICY, TOOL, Request("api.example.com", 443), NOW), limits, usage)
    assert (after.passes, after.reason) == (passes, Reason.ALLOWED if passes else Reason.LIMIT_EXCEEDED)


HINTS = [
    (Request("new.example.com", 443), "cloned-proxy allow new.example.com --tool demo@v1"),
    (Request("api.example.com", 22), "cloned-proxy allow api.example.com:22 --tool demo@v1 --ssh"),
    (Request("fd12::9", 22), "cloned-proxy allow '[fd12::9]:22' --tool demo@v1 --ssh"),
    (Request("169.254.169.254", 80), "169.254.169.254 is a metadata address; nobody can ask for those"),
    (Request("fe80::1", 443), "fe80::1 is a link-local address; nobody can ask for those"),
    (Request("denied.example.com", 443), "cloned-proxy remove denied.example.com --tool demo@v1"),
    (Request("evil.example.org", 443), "cloned-proxy remove evil.example.org"),
    (
        Request("github.example.com", 443, "POST", "/repos/a?token=x"),
        "cloned-proxy allow github.example.com --tool demo@v1 --method POST --path /repos/a",
    ),
    (Request("api.example.com", 443), ""),
]


@pytest.mark.parametrize(("request_", "command"), HINTS)
def test_hints(request_: Request, command: str) -> None:
    decision: Decision = decide(POLICY, TOOL, request_, NOW)
    assert hint(decision) == command


def test_a_reported_deny_of_a_private_literal_is_still_not_dialled() -> None:
    policy = policy_of(mode="report", global_={"deny": ["10.0.0.1"]})
    decision = decide(policy, ANONYMOUS, Request("10.0.0.1", 443), NOW)
    after = decide_addresses(decision, [ip_address("10.0.0.1")], ())
    assert (decision.verdict, after.verdict) == (Verdict.REPORT, Verdict.DENY)


LEARNING = policy_of(
    global_={"allow": ["shared.example.com"]},
    tools={"new@v1": {"mode": "report", "deny": ["evil.example.org"]}, "other@v1": {}},
)
CAREFUL = policy_of(mode="report", tools={"strict@v1": {"mode": "enforce"}})
MODES = [
    (LEARNING, Principal("new@v1"), "unknown.example.net", Verdict.REPORT, Reason.HOST_NOT_ALLOWED),
    (LEARNING, Principal("new@v1"), "shared.example.com", Verdict.ALLOW, Reason.ALLOWED),
    (LEARNING, Principal("new@v1"), "evil.example.org", Verdict.REPORT, Reason.EXPLICIT_DENY),
    (LEARNING, Principal("new@v1"), "0x7f.1", Verdict.DENY, Reason.IP_LITERAL),
    (LEARNING, Principal("new@v1"), "a b", Verdict.DENY, Reason.MALFORMED_REQUEST),
    (LEARNING, IdentityRefusal(Reason.IDENTITY_EXPIRED, "new@v1"), "a.test", Verdict.DENY, Reason.IDENTITY_EXPIRED),
    (LEARNING, Principal("other@v1"), "unknown.example.net", Verdict.DENY, Reason.HOST_NOT_ALLOWED),
    (LEARNING, Principal("unnamed@v1"), "unknown.example.net", Verdict.DENY, Reason.HOST_NOT_ALLOWED),
    (LEARNING, ANONYMOUS, "unknown.example.net", Verdict.DENY, Reason.HOST_NOT_ALLOWED),
    (CAREFUL, Principal("strict@v1"), "unknown.example.net", Verdict.DENY, Reason.HOST_NOT_ALLOWED),
    (CAREFUL, Principal("other@v1"), "unknown.example.net", Verdict.REPORT, Reason.HOST_NOT_ALLOWED),
    (CAREFUL, ANONYMOUS, "unknown.example.net", Verdict.REPORT, Reason.HOST_NOT_ALLOWED),
]


@pytest.mark.parametrize(("policy", "caller", "host", "verdict", "reason"), MODES)
def test_a_tool_may_have_its_own_mode(
    policy: Policy, caller: Principal, host: str, verdict: Verdict, reason: Reason
) -> None:
    decision = decide(policy, caller, Request(host, 443), NOW)
    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_a_tool_in_report_mode_reaches_no_address_that_the_policy_refuses() -> None:
    decision = decide(LEARNING, Principal("new@v1"), Request("rebound.example.net", 443), NOW)
    assert decision.verdict is Verdict.REPORT
    for address in ("10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"):
        assert decide_addresses(decision, [ip_address(address)], ()).verdict is Verdict.DENY
    over = decide_limits(decision, Limits(concurrent=1), Usage(1, 0, 0))
    assert (over.verdict, over.reason) == (Verdict.REPORT, Reason.LIMIT_EXCEEDED)
    assert LEARNING.reporting == ("new@v1",)
