"""`cidr:`, `public: true` and `except:`: what each opens, and what nothing opens."""

from __future__ import annotations

import ipaddress
from datetime import date
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.hints.hint import hint, owner_hint
from cloned_proxy.policy.hints.hint_inside import hint_inside
from cloned_proxy.policy.hints.offer import why_no_request
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.reading.read_preset import read_preset
from cloned_proxy.policy.terms.address import OPENED_BY, AddressClass, classify
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.network import network_of
from cloned_proxy.policy.terms.network_index import NetworkIndex
from cloned_proxy.policy.terms.rule import PUBLIC_INTERNET, HostPattern, PatternKind, Rule
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict
from tests.policy.tables import policy_of
from tests.policy.terms.networks import LIMITS, NOW, OWN, TOOL, asked, of_tool

COMPANY = of_tool(
    {"cidr": "10.20.0.0/16", "ports": [443, 5432, 8081], "protocols": ["tcp"]},
    {"cidr": "100.64.0.0/10"},
    {"cidr": "198.18.0.0/15"},
    {"cidr": "fd00:1234::/32", "ports": [443]},
    {"cidr": "192.168.7.0/24", "methods": ["GET"]},
    {"cidr": "192.168.8.0/24", "max_uses": 5},
    {"cidr": "192.168.9.0/24", "expires": "2020-01-01T00:00:00Z"},
    "db.example.com",
    {"host": "db.example.com", "ports": [5432, 8081, 22]},
)
NETWORKS = [
    # host, what it resolves to, port, why
    ("10.20.3.4", (), 5432, "allowed"), ("10.20.3.4", (), 22, "port_not_allowed"), ("10.21.0.1", (), 443, "ip_literal"),
    ("fd00:1234::5", (), 443, "allowed"), ("fd00:1235::5", (), 443, "ip_literal"), ("198.18.0.9", (), 443, "allowed"),
    ("10.20.0.1", (), 8081, "address_not_allowed"),  # the proxy itself
    ("100.100.100.200", (), 443, "address_not_allowed"),  # metadata inside of an allowed network
    ("fd00:ec2::254", (), 443, "ip_literal"),
    ("::ffff:10.20.3.4", (), 443, "address_not_allowed"), ("64:ff9b::10.20.3.4", (), 443, "ip_literal"),
    ("0x0a.20.3.4", ("10.20.3.4",), 443, "ip_literal"),
    ("db.example.com", ("10.20.3.4",), 443, "allowed"), ("db.example.com", ("10.20.3.4",), 5432, "allowed"),
    ("db.example.com", ("10.20.3.4",), 22, "address_not_allowed"),  # the network's own ports
    ("db.example.com", ("10.20.3.4", "10.21.0.1"), 443, "address_not_allowed"),
    ("db.example.com", ("10.20.3.4", "93.184.216.34"), 443, "allowed"),
    ("db.example.com", ("10.20.0.1",), 8081, "address_not_allowed"),
    ("db.example.com", ("::ffff:10.20.3.4",), 443, "address_not_allowed"),
    ("db.example.com", ("100.100.100.200",), 443, "address_not_allowed"),
    ("db.example.com", ("192.168.7.1",), 443, "address_not_allowed"),  # held to methods, a tunnel cannot be
    ("db.example.com", ("192.168.8.1",), 443, "address_not_allowed"),
    ("db.example.com", ("192.168.9.1",), 443, "address_not_allowed"),
    ("192.168.8.1", (), 443, "allowed"), ("192.168.9.1", (), 443, "lease_expired"),
    ("other.example.com", ("10.20.3.4",), 443, "host_not_allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "addresses", "port", "reason"), NETWORKS)
def test_a_network_opens_its_literals_and_the_names_that_have_a_rule_of_their_own(
    host: str, addresses: tuple[str, ...], port: int, reason: str
) -> None:
    found = addresses or (host if (host[0].isdigit() and "x" not in host) or ":" in host else "93.184.216.34",)
    assert asked(COMPANY, host, *found, port=port).reason == reason


def test_a_global_network_is_for_who_inherits_it() -> None:
    tools = {
        "demo@v1": {"allow": ["db.example.com"]},
        "alone@v1": {"inherit_global": False, "allow": ["db.example.com"]},
    }
    policy = policy_of(global_={"allow": [{"cidr": "10.20.0.0/16"}]}, tools=tools)
    assert asked(policy, "db.example.com", "10.20.3.4").passes
    alone = decide(policy, Principal("alone@v1"), Request("db.example.com", 443), NOW)
    assert not decide_addresses(alone, [ip_address("10.20.3.4")], OWN).passes
    assert decide(policy, ANONYMOUS, Request("10.20.3.4", 443), NOW).passes


DENIES = [
    ({"cidr": "10.0.0.0/8"}, "10.20.3.4", (), Reason.EXPLICIT_DENY),
    ({"cidr": "10.0.0.0/8"}, "db.example.com", ("10.20.3.4",), Reason.EXPLICIT_DENY),
    ({"cidr": "93.184.0.0/16"}, "db.example.com", ("93.184.216.34",), Reason.EXPLICIT_DENY),
    ({"cidr": "0.0.0.0/0"}, "db.example.com", ("93.184.216.34",), Reason.EXPLICIT_DENY),
    ({"cidr": "::/0"}, "db.example.com", ("93.184.216.34",), Reason.ALLOWED),
    ({"cidr": "10.0.0.0/8", "except": ["10.20.0.0/16"]}, "10.20.3.4", (), Reason.ALLOWED),
    ({"cidr": "10.0.0.0/8", "except": ["10.20.3.4"]}, "10.20.3.4", (), Reason.ALLOWED),
    ({"cidr": "10.0.0.0/8", "except": ["10.20.3.4"]}, "10.20.3.5", (), Reason.EXPLICIT_DENY),
    ({"cidr": "10.0.0.0/8", "except": ["10.20.0.0/16"]}, "db.example.com", ("10.20.3.4",), Reason.ALLOWED),
    ({"cidr": "10.0.0.0/8", "expires": "2020-01-01T00:00:00Z"}, "10.20.3.4", (), Reason.ALLOWED),
    ({"host": "**.example.com", "except": ["db.example.com"]}, "db.example.com", ("93.184.216.34",), Reason.ALLOWED),
    (
        {"host": "**.example.com", "except": ["*.db.example.com"]},
        "db.example.com",
        ("93.184.216.34",),
        Reason.EXPLICIT_DENY,
    ),
    (
        {"host": "*.example.com", "except": ["x.example.com"]},
        "db.example.com",
        ("93.184.216.34",),
        Reason.EXPLICIT_DENY,
    ),
]


@pytest.mark.parametrize(("deny", "host", "addresses", "reason"), DENIES)
def test_a_deny_of_many_hosts_wins_but_for_its_exceptions(
    deny: object, host: str, addresses: tuple[str, ...], reason: Reason
) -> None:
    policy = of_tool({"cidr": "10.20.0.0/16"}, "db.example.com", deny=(deny,))
    assert asked(policy, host, *addresses).reason is reason


def test_an_exception_allows_nothing_by_itself() -> None:
    policy = of_tool(deny=({"host": "**.example.com", "except": ["db.example.com"]},))
    assert asked(policy, "db.example.com", "93.184.216.34").reason is Reason.HOST_NOT_ALLOWED


def test_a_literal_that_is_ipv4_in_ipv6_meets_the_deny_of_its_network() -> None:
    policy = of_tool("::ffff:10.0.0.1", deny=({"cidr": "10.0.0.0/8"},))
    assert asked(policy, "::ffff:10.0.0.1").reason is Reason.EXPLICIT_DENY


def test_a_denied_network_is_reported_in_report_mode_and_a_class_that_nothing_opens_is_not() -> None:
    policy = policy_of(mode="report", tools={"demo@v1": {"allow": ["db.example.com"], "deny": [{"cidr": "0.0.0.0/0"}]}})
    reported = asked(policy, "db.example.com", "93.184.216.34")
    assert (reported.verdict, reported.reason, reported.mode) == (Verdict.REPORT, Reason.EXPLICIT_DENY, Mode.REPORT)
    assert asked(policy, "db.example.com", "10.0.0.1").verdict is Verdict.DENY


def test_no_caller_learns_to_which_denied_network_a_name_leads() -> None:
    refused = asked(
        of_tool("db.example.com", deny=({"cidr": "10.20.0.0/16"}, {"cidr": "93.184.0.0/16"})),
        "db.example.com",
        "93.184.216.34",
    )
    assert "93.184" in owner_hint(refused)
    for told in (hint(refused, "d1"), hint_inside(refused)):
        assert "93.184" not in told
        assert "not open" in told


REFUSED = [
    ({"cidr": "0.0.0.0/0"}, "public: true"),
    ({"cidr": "::/0"}, "public: true"),
    ({"cidr": "10.0.0.0/7"}, "too wide"),
    ({"cidr": "2001::/16"}, "too wide"),
    ({"cidr": "10.20.0.1/16"}, "write '10.20.0.0/16'"),
    ({"cidr": "10.20.0.0"}, "not a network"),
    ({"cidr": "10.20.0.0/33"}, "not a network"),
    ({"cidr": "010.20.0.0/16"}, "not a network"),
    ({"cidr": "10.20/16"}, "not a network"),
    ({"cidr": "10.20.0.0/255.255.0.0"}, "not a network"),
    ({"cidr": "example.com/8"}, "not a network"),
    ({"cidr": 10}, "not a network"),
    ({"cidr": "169.254.0.0/16"}, "link-local"),
    ({"cidr": "224.0.0.0/8"}, "multicast"),
    ({"cidr": "fe80::/64"}, "link-local"),
    ({"cidr": "169.254.169.254/32"}, "metadata"),
    ({"cidr": "64:ff9b::/96"}, "embedded-ipv4"),
    ({"cidr": "2002::/32"}, "embedded-ipv4"),
    ({"cidr": "::ffff:10.0.0.0/104"}, "IPv4 written as IPv6"),
    ({"cidr": "10.20.0.0/016"}, "not in plain decimals"),
    ({"cidr": "10.20.0.0/16", "host": "a.example.com"}, "two rules"),
    ({}, "'host' is missing"),
    ({"cidr": "10.20.0.0/16", "addresses": ["private"]}, "leave 'addresses' out"),
    ({"cidr": "10.20.0.0/16", "ports": [443], "inject": {"header": "X-A", "value": "b"}}, "one host, not to a network"),
]


@pytest.mark.parametrize(("entry", "words"), REFUSED)
def test_a_network_that_no_rule_takes_is_refused_with_the_fix(entry: object, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        of_tool(entry)
    assert words in str(caught.value)


REFUSED_DENIES = [
    ({"host": "a.example.com", "except": ["b.example.com"]}, "is one; take the deny out"),
    ({"host": "*.example.com", "except": ["a.b.example.com"]}, "not below"),
    ({"host": "**.example.com", "except": ["example.com"]}, "not below"),
    ({"host": "**.example.com", "except": ["**.example.com"]}, "not below"),
    ({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, "not below"),
    ({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}, "not below"),
    ({"cidr": "10.0.0.0/8", "except": ["a.example.com"]}, "not below"),
    ({"cidr": "10.0.0.0/8", "except": ["fd00::/16"]}, "not below"),
    ({"cidr": "10.0.0.0/8", "paths": ["/x"]}, "not to a network"),
    ({"host": "**.example.com", "except": []}, "empty list"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "words"), REFUSED_DENIES)
def test_an_exception_that_excepts_nothing_is_refused(entry: object, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        of_tool(deny=(entry,))
    assert words in str(caught.value)


PATHS = of_tool(
    "api.example.com",
    {"host": "raw.example.com", "protocols": ["tcp"]},
    "plain.example.com",
    deny=({"host": "**.example.com", "paths": ["/admin/**"], "except": ["plain.example.com"]},),
)


def test_a_deny_with_paths_opens_the_tunnel_and_refuses_those_paths() -> None:
    tunnel = decide(PATHS, TOOL, Request("api.example.com", 443), NOW)
    assert (tunnel.passes, tunnel.inspect) == (True, True)
    assert not decide(PATHS, TOOL, Request("plain.example.com", 443), NOW).inspect
    for path, reason in [("/x", Reason.ALLOWED), ("/admin/x", Reason.EXPLICIT_DENY), ("/x/../y", Reason.EXPLICIT_DENY),
                         ("//Admin;a/x", Reason.EXPLICIT_DENY)]:  # fmt: skip
        assert decide(PATHS, TOOL, Request("api.example.com", 443, "GET", path), NOW).reason is reason
    assert decide(PATHS, TOOL, Request("api.example.com", 80, "GET", "/admin/"), NOW).reason is Reason.EXPLICIT_DENY


def test_a_tunnel_of_anything_is_refused_where_paths_are_denied() -> None:
    assert decide(PATHS, TOOL, Request("raw.example.com", 443), NOW).reason is Reason.EXPLICIT_DENY


# The index against the library's own containment, and every class against the one rule that nothing opens it.
# The index against the library's own containment, and every class against the one rule that nothing opens it.


ADDRESSES = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), st.sampled_from(["10.0.0.0", "10.255.255.255"]).map(ip_address)
)


@st.composite
def networks(draw: st.DrawFn) -> HostPattern:
    address = draw(ADDRESSES)
    length = draw(st.integers(0, address.max_prefixlen))
    return HostPattern(PatternKind.CIDR, str(ipaddress.ip_network((address, length), strict=False)))


@given(st.lists(networks(), max_size=20), ADDRESSES)
def test_the_index_finds_what_holds_the_address_the_smallest_first(
    patterns: list[HostPattern], address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    index = NetworkIndex(Rule(f"r-{at}", "global", denies=False, pattern=each) for at, each in enumerate(patterns))
    found = [rule.pattern for rule in index.holding(address)]
    mapped = getattr(address, "ipv4_mapped", None)
    expected = [
        each for each in patterns if address in network_of(each) or (mapped is not None and mapped in network_of(each))
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    lengths = [network_of(each).prefixlen for each in found if network_of(each).version == address.version]
    assert lengths == sorted(lengths, reverse=True)


@given(
    st.lists(networks(), min_size=1, max_size=5), ADDRESSES, st.sampled_from([{}, {"public": True, "limits": LIMITS}])
)
def test_no_network_opens_what_no_rule_opens(
    patterns: list[HostPattern], address: ipaddress.IPv4Address | ipaddress.IPv6Address, more: dict[str, Any]
) -> None:
    allow: list[object] = ["db.example.com"]
    for pattern in patterns:
        try:
            of_tool({"cidr": pattern.value})
        except PolicyError:
            continue
        allow.append({"cidr": pattern.value})
    policy = of_tool(*{str(each): each for each in allow}.values(), **more)
    kind = classify(address)
    for host in ("db.example.com", str(address), "any.example"):
        if asked(policy, host, str(address)).passes:
            assert kind is AddressClass.PUBLIC or kind in OPENED_BY


@pytest.mark.parametrize("entry", [{"cidr": "10.20.0.0/16"}, "10.20.0.0/16", {"host": "10.20.0.0/16"}])
def test_a_preset_can_open_no_network(entry: object) -> None:
    document = {
        "name": "p",
        "about": "a",
        "source": "https://example.com/",
        "checked": date(2026, 1, 1),
        "allow": [entry],
    }
    with pytest.raises(PolicyError):
        read_preset(document, name="p", source="p.yaml", version="", lines={})


def test_nobody_can_ask_for_a_network_or_for_the_internet() -> None:
    for pattern in (HostPattern(PatternKind.CIDR, "10.20.0.0/16"), PUBLIC_INTERNET):
        assert "opened by the owner alone" in why_no_request(pattern)
