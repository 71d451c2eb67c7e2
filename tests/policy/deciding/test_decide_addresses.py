"""What a name resolved to: each class of address, the words that open it, and the hints."""

# ruff: noqa: E501  rows of a table stay on one line

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.deciding.refusal import refused
from cloned_proxy.policy.hints.hint import hint, owner_hint
from cloned_proxy.policy.hints.hint_inside import hint_inside
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import Mode, Reason
from tests.policy.tables import policy_of

NOW = 1_800_000_000.0
TOOL = Principal("demo@v1")
PRIVATE = policy_of(
    global_={"allow": [{"host": "lan.example.com", "addresses": ["private"]}, "example.com", "127.0.0.1", "0.0.0.0",
                       "::ffff:127.0.0.1"]}
)  # fmt: skip
OWN = {(ip_address("127.0.0.1"), 80)}
DIALS = [
    ("example.com", ["93.184.216.34"], 443, True), ("example.com", [], 443, False),
    ("example.com", ["93.184.216.34", "10.0.0.1"], 443, False), ("example.com", ["127.0.0.1"], 443, False),
    ("example.com", ["64:ff9b::7f00:1"], 443, False), ("lan.example.com", ["10.0.0.1"], 443, True),
    ("lan.example.com", ["127.0.0.1"], 443, True), ("lan.example.com", ["127.0.0.1"], 80, False),
    ("lan.example.com", ["169.254.169.254"], 443, False), ("lan.example.com", ["fd00:ec2::254"], 443, False),
    ("lan.example.com", ["::ffff:10.0.0.1"], 443, False), ("127.0.0.1", ["127.0.0.1"], 443, True),
    ("127.0.0.1", ["127.0.0.1"], 80, False), ("127.0.0.1", ["127.0.0.2"], 443, False),
    ("0.0.0.0", ["0.0.0.0"], 443, False), ("::ffff:127.0.0.1", ["::ffff:127.0.0.1"], 80, False),
]  # fmt: skip


@pytest.mark.parametrize(("host", "addresses", "port", "passes"), DIALS)
@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.REPORT])
def test_addresses(host: str, addresses: list[str], port: int, *, passes: bool, mode: Mode) -> None:
    decision = decide(replace(PRIVATE, mode=mode), ANONYMOUS, Request(host, port), NOW)
    after = decide_addresses(decision, [ip_address(text) for text in addresses], OWN)
    assert decision.passes
    assert (after.passes, after.reason) == (passes, Reason.ALLOWED if passes else Reason.ADDRESS_NOT_ALLOWED)


CLASSES = [
    ("93.184.216.34", None), ("10.0.0.1", "private"), ("127.0.0.2", "private"), ("100.64.0.1", "private"),
    ("fc00::1", "private"), ("198.18.0.1", "reserved"), ("203.0.113.9", "reserved"), ("192.0.2.1", "reserved"),
    ("240.0.0.1", "reserved"), ("2001:db8::1", "reserved"), ("169.254.1.1", "never"), ("169.254.169.254", "never"),
    ("100.100.100.200", "never"), ("192.0.0.192", "never"), ("168.63.129.16", "never"), ("224.0.0.1", "never"),
    ("ff02::1", "never"), ("fe80::1", "never"), ("64:ff9b::c612:1", "never"), ("::ffff:198.18.0.1", "never"),
    ("2002:c612:1::1", "never"), ("0.0.0.0", "never"), ("::", "never"),
]  # fmt: skip


@pytest.mark.parametrize(("address", "needs"), CLASSES)
@pytest.mark.parametrize("words", [(), ("private",), ("reserved",), ("private", "reserved")], ids=str)
def test_each_word_opens_its_classes_and_no_word_opens_the_others(
    address: str, needs: str | None, words: tuple[str, ...]
) -> None:
    policy = policy_of(global_={"allow": [{"host": "a.example.com", **({"addresses": [*words]} if words else {})}]})
    decision = decide(policy, ANONYMOUS, Request("a.example.com", 443), NOW)
    after = decide_addresses(decision, [ip_address("93.184.216.34"), ip_address(address)], ())
    assert after.passes == (needs is None or needs in words)
    assert after.refused_address == (None if after.passes else ip_address(address))


def test_a_rule_that_opens_addresses_is_not_hidden_by_a_plain_one_for_the_same_host() -> None:
    opens = {"host": "a.example.com", "addresses": ["private"], "expires": "2030-01-01T00:00:00Z"}
    for allow in (["a.example.com", opens], [opens, "a.example.com"]):
        decision = decide(policy_of(global_={"allow": allow}), ANONYMOUS, Request("a.example.com", 443), NOW)
        assert decide_addresses(decision, [ip_address("10.0.0.1")], ()).passes


ADDRESS_HINTS = [
    ("a.example.com", "10.0.0.1", "cloned-proxy allow a.example.com --tool demo@v1 --private"),
    ("a.example.com", "203.0.113.9", "cloned-proxy allow a.example.com --tool demo@v1 --reserved"),
    ({"host": "a.example.com", "addresses": ["private"]}, "203.0.113.9",
     "cloned-proxy allow a.example.com --tool demo@v1 --private --reserved"),
    ({"host": "a.example.com", "ports": [443, 8443], "methods": ["GET"], "paths": ["/v1/**"]}, "10.0.0.1",
     "cloned-proxy allow a.example.com --port=443 --port=8443 --tool demo@v1 --method=GET '--path=/v1/**' --private"),
    ({"host": "a.example.com", "ports": [443], "protocols": ["tcp"]}, "10.0.0.1",
     "cloned-proxy allow a.example.com:443 --tool demo@v1 --tcp --private"),
    ("*.example.com", "10.0.0.1", "cloned-proxy allow a.example.com --tool demo@v1 --private"),
    ("a.example.com", "169.254.169.254", "a.example.com resolves to 169.254.169.254 (metadata); no rule opens that class"),
    ("a.example.com", "64:ff9b::1", "a.example.com resolves to 64:ff9b::1 (embedded-ipv4); no rule opens that class"),
    ({"host": "a.example.com", "max_uses": 5}, "10.0.0.1",
     "a.example.com resolves to 10.0.0.1 (private); put `addresses: [private]` into its rule"),
    ({"host": "a.example.com", "addresses": ["private"]}, "127.0.0.1",
     "a.example.com resolves to 127.0.0.1 (loopback), where this proxy itself listens; it never dials itself"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "address", "told"), ADDRESS_HINTS)
def test_the_hint_for_an_address_names_what_opens_it_beside_what_the_rule_has(
    rule: object, address: str, told: str
) -> None:
    policy = policy_of(tools={"demo@v1": {"allow": [rule]}})
    decision = decide(policy, TOOL, Request("a.example.com", 443), NOW)
    after = decide_addresses(decision, [ip_address(address)], {(ip_address("127.0.0.1"), 443)})
    assert owner_hint(after).partition(" (policy.yaml:")[0] == told
    caller = hint(after, "d1")
    assert address not in caller
    assert caller.endswith("cloned-proxy explain d1")


def test_plain_http_on_a_port_for_ssh_is_not_told_to_add_the_rule_that_is_there() -> None:
    rule = {"host": "git.example.com", "ports": [22], "protocols": ["ssh"]}
    policy = policy_of(tools={"demo@v1": {"allow": [rule]}})
    decision = decide(policy, TOOL, Request("git.example.com", 22, "GET", "/"), NOW)
    assert decision.reason is Reason.PROTOCOL_NOT_ALLOWED
    command = "cloned-proxy allow git.example.com:22 --tool demo@v1"
    assert owner_hint(decision) == f"its rule lets SSH pass, and nothing else; for HTTP: {command}"
    assert hint_inside(decision) == "its rule lets SSH pass, and nothing else"
    wider = policy_of(tools={"demo@v1": {"allow": [rule, {"host": "git.example.com", "ports": [22]}]}})
    assert decide(wider, TOOL, Request("git.example.com", 22, "GET", "/"), NOW).passes


@pytest.mark.parametrize("scope", [{"allow": ["*.example.com"]}, {"public": True, "limits": {"concurrent": 1}}])
def test_a_name_that_is_looked_up_elsewhere_is_told_to_need_a_rule_of_its_own(scope: dict[str, object]) -> None:
    decision = decide(policy_of(tools={"demo@v1": scope}), TOOL, Request("proxy.example.com", 443), NOW)
    unseen = refused(decision, Reason.ADDRESS_NOT_ALLOWED)
    assert owner_hint(unseen).endswith("exact name opens it: cloned-proxy allow proxy.example.com:443 --tool demo@v1")
    assert hint(unseen, "d1") == "only a rule with the exact name opens it: cloned-proxy explain d1"
