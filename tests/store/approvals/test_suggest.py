"""Suggestions cover what was recorded and nothing that no rule may allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.store.approvals.suggest import Suggestion, suggest
from cloned_proxy.store.audit.tally import OTHER, RecordedCall
from cloned_proxy.store.policyfile.policy_entry import Entry
from tests.policy.tables import policy_of

NOW = 1_800_000_000.0
TOOL = "demo@v1"
POLICY = policy_of(
    global_={"allow": ["shared.example.com"], "deny": ["evil.example.org"]},
    tools={TOOL: {"allow": [{"host": "leased.example.com", "expires": "2020-01-01T00:00:00Z"}]}},
)


def _call(
    host: str,
    port: int = 443,
    method: str = "CONNECT",
    path: str = "",
    *,
    tool: str | None = TOOL,
    verdict: str = "report",
    reason: str = "host_not_allowed",
    count: int = 5,
) -> RecordedCall:
    return RecordedCall(tool, host, port, method, path, verdict, reason, count, NOW - 60, NOW)


def _suggest(*calls: RecordedCall) -> Suggestion:
    return suggest(calls, POLICY, NOW)


def _entries(*calls: RecordedCall) -> list[Entry]:
    return [suggested.entry for suggested in _suggest(*calls).entries]


def test_a_tunnel_is_known_by_host_and_port_and_its_tls_stays_closed() -> None:
    assert _entries(_call("api.example.com")) == [Entry("api.example.com", ports=(443,))]
    assert _entries(_call("api.example.com", 8443), _call("api.example.com")) == [
        Entry("api.example.com", ports=(443, 8443))
    ]


def test_the_usual_ports_need_no_word() -> None:
    assert _entries(_call("api.example.com", 80), _call("api.example.com", 443)) == [Entry("api.example.com")]


def test_methods_and_paths_are_named_where_they_were_seen() -> None:
    gets = [_call("api.example.com", 80, "GET", f"/repos/{owner}/issues") for owner in "abcdefgh"]
    posts = [_call("api.example.com", 80, "POST", "/login"), _call("api.example.com", 80, "HEAD", "/login")]
    assert _entries(*gets, *posts, _call("api.example.com", 443)) == [
        Entry("api.example.com", ports=(443,)),
        Entry("api.example.com", ports=(80,), methods=("GET",), paths=("/repos/**",)),
        Entry("api.example.com", ports=(80,), methods=("HEAD", "POST"), paths=("/login",)),
    ]


def test_the_connect_of_an_inspected_flow_is_covered_by_what_was_seen_in_it() -> None:
    seen = _suggest(_call("api.example.com"), _call("api.example.com", 443, "GET", "/v1/a", count=3)).entries
    assert [each.entry for each in seen] == [Entry("api.example.com", (443,), ("GET",), ("/v1/a",))]
    assert seen[0].seen.passed == 8


def test_what_the_roll_up_did_not_keep_narrows_nothing() -> None:
    assert _entries(_call("a.example.com", 80, "GET", OTHER)) == [Entry("a.example.com", (80,), ("GET",))]
    assert _entries(_call("a.example.com", 80, "GET", "/x"), _call("a.example.com", 80, OTHER, OTHER)) == [
        Entry("a.example.com", (80,))
    ]


def test_denied_and_reported_calls_are_counted_apart() -> None:
    (suggested,) = _suggest(_call("a.example.com", verdict="deny", count=2), _call("a.example.com", count=7)).entries
    assert (suggested.seen.denied, suggested.seen.passed) == (2, 7)


def test_anonymous_calls_make_global_rules() -> None:
    (addition,) = _suggest(_call("a.example.com", tool=None)).additions
    assert addition.path == ("global", "allow")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(_call("shared.example.com"), id="allowed meanwhile"),
        pytest.param(_call("a.example.com", verdict="allow", reason="allowed"), id="allowed then"),
        pytest.param(_call("a b", verdict="deny", reason="malformed_request"), id="no host at all"),
    ],
)
def test_nothing_is_said_where_nothing_is_to_do(call: RecordedCall) -> None:
    assert _suggest(call) == Suggestion((), (), (), ())


REFUSED = [
    pytest.param(_call("co.uk"), "public suffix", id="public suffix"),
    pytest.param(_call("github.io"), "public suffix", id="private suffix"),
    pytest.param(_call("169.254.169.254", reason="ip_literal"), "metadata", id="metadata"),
    pytest.param(_call("10.0.0.1", reason="ip_literal"), "private", id="private address"),
    pytest.param(_call("127.0.0.1", 8080, reason="ip_literal"), "loopback", id="loopback"),
    pytest.param(_call("::ffff:10.0.0.1", reason="ip_literal"), "embedded", id="IPv4 in IPv6"),
    pytest.param(_call("0x7f.1", verdict="deny", reason="ip_literal"), "spelling", id="spelling"),
    pytest.param(_call("metadata.google.internal"), "local network", id="metadata name"),
    pytest.param(_call("localhost"), "local network", id="localhost"),
    pytest.param(_call("printer.local"), "local network", id="mDNS"),
    pytest.param(_call("intranet"), "local network", id="one label"),
    pytest.param(_call("evil.example.org", reason="explicit_deny"), "denies it", id="denied then"),
    pytest.param(_call("evil.example.org"), "denies it", id="denied now"),
    pytest.param(_call("a.example.com", verdict="deny", reason="address_not_allowed"), "not public", id="rebinding"),
    pytest.param(_call("leased.example.com"), "lease", id="lease"),
    pytest.param(_call("a.example.com", reason="sni_mismatch"), "TLS server name", id="domain fronting"),
    pytest.param(_call("a.example.com", 22, reason="protocol_not_allowed"), "tcp", id="not TLS"),
    pytest.param(_call("a.example.com", 80, "GET", "/../etc"), "two ways", id="ambiguous path"),
    pytest.param(_call("a.example.com", 80, "GET", "/*"), "two ways", id="a star in the path"),
    pytest.param(_call("a.example.com", 80, "get", "/"), "method", id="method"),
    pytest.param(_call(OTHER, 0, OTHER, OTHER), "roll-up", id="flood"),
]


@pytest.mark.parametrize(("call", "why"), REFUSED)
def test_what_no_rule_may_allow_is_refused_with_the_reason(call: RecordedCall, why: str) -> None:
    found = _suggest(call)
    assert found.entries == ()
    assert why in found.refused[0].why


def test_a_name_that_was_internal_once_is_not_suggested_for_the_other_times() -> None:
    assert _entries(_call("a.example.com"), _call("a.example.com", verdict="deny", reason="address_not_allowed")) == []


def test_what_looks_like_exfiltration_is_set_apart_with_its_counts() -> None:
    random = [_call(f"{number:02d}mfrggzdfmztwq2lk.evil.example", count=1) for number in range(3)]
    burst = [_call(f"n{number}.drop.example.com", count=1) for number in range(15)]
    found = _suggest(*random, *burst, _call("api.example.com"))
    assert [each.entry.host for each in found.entries] == ["api.example.com"]
    assert [(each.what, each.seen.passed) for each in found.suspicious] == [
        ("below evil.example", 3),
        ("below drop.example.com", 15),
    ]
    assert found.wildcards == ()


def test_exact_names_are_suggested_and_a_wildcard_is_only_spoken_of() -> None:
    names = [f"{name}.cdn.example.com" for name in ("ams", "fra", "lhr", "cdg", "mad")]
    found = _suggest(*map(_call, names), *(_call(f"{name}.co.uk") for name in ("a1", "b1", "c1", "d1", "e1")))
    assert not any("*" in each.entry.host for each in found.entries)
    assert [(each.pattern, set(each.names)) for each in found.wildcards] == [("*.cdn.example.com", set(names))]


HOSTS = st.sampled_from(
    ["api.example.com", "b.example.com", "192.31.196.1", "203.0.114.1", "2a00::1", "x.y.example.com"]
)
SEGMENTS = st.lists(st.sampled_from(["a", "b", "1", "22", "deadbeef00", "c-d"]), max_size=3)
CALLS = st.lists(
    st.builds(
        lambda tool, host, port, inner: (
            _call(host, port, inner[0], "/" + "/".join(inner[1]), tool=tool) if inner else _call(host, port, tool=tool)
        ),
        st.sampled_from([TOOL, "other@v1", None]),
        HOSTS,
        st.sampled_from([80, 443, 8443]),
        st.one_of(st.none(), st.tuples(st.sampled_from(["GET", "POST", OTHER]), SEGMENTS)),
    ),
    max_size=30,
)


def _with(found: Suggestion) -> Policy:
    lists: dict[str | None, list[object]] = {}
    for addition in found.additions:
        lists.setdefault(addition.tool, []).extend(entry.as_value() for entry in addition.entries)
    shared = lists.pop(None, [])
    return policy_of(global_={"allow": shared}, tools={tool: {"allow": allow} for tool, allow in lists.items()})


@given(CALLS)
def test_the_suggested_rules_allow_every_recorded_call_and_leave_nothing_to_suggest(calls: list[RecordedCall]) -> None:
    found = suggest(calls, POLICY, NOW)
    refused = {(each.tool, each.what) for each in found.refused}
    policy = _with(found)
    for call in calls:
        authority = f"[{call.host}]" if ":" in call.host else call.host
        if (call.tool, f"{authority}:{call.port}") in refused:
            continue
        caller = ANONYMOUS if call.tool is None else Principal(call.tool)
        tunnel = call.method == "CONNECT"
        method = None if tunnel else "GET" if call.method == OTHER else call.method
        decision = decide(policy, caller, Request(call.host, call.port, method, None if tunnel else call.path), NOW)
        assert decision.reason is Reason.ALLOWED
    assert suggest(calls, policy, NOW).entries == ()


def test_a_look_alike_of_an_allowed_or_wanted_host_is_set_apart() -> None:
    found = _suggest(
        _call("api.stripe.com"), _call("api.stripe.com.evil.example"), _call("shared.example.com.evil.example")
    )
    assert [each.entry.host for each in found.entries] == ["api.stripe.com"]
    assert [(each.what, each.why.split(" and ")[0]) for each in found.suspicious] == [
        ("api.stripe.com.evil.example", "it begins like api.stripe.com"),
        ("shared.example.com.evil.example", "it begins like shared.example.com"),
    ]
