"""`allowed by now` only where enforcement would let it pass: the same decision, lease, mode, protocol and address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from cloned_proxy.control.outlook import Outlook
from cloned_proxy.policy.reading.parse import parse_policy
from cloned_proxy.store.audit.audit_log import RuleHits
from cloned_proxy.store.audit.tally import BlockedCall, BlockedGroup
from cloned_proxy.store.policyfile.rule_use import RuleUse

NOW = 1_800_000_000.0
HOST = "a.example"
LATER, EARLIER = "2126-01-01T00:00:00Z", "2026-01-01T00:00:00Z"


def call(reason: str = "host_not_allowed", port: int = 443, method: str = "CONNECT", path: str = "") -> BlockedCall:
    return BlockedCall(port, reason, method, path, 1)


def standing(allow: list[object], calls: tuple[BlockedCall, ...], more: dict[str, object]) -> str:
    """`host`, `tool` and `at` (the refused address) of `more` are the group's; the rest belongs into the policy."""
    document = {"version": 1, "anonymous": "global", "global": {"allow": allow}, **more}
    host, tool, at = (document.pop(name, None) for name in ("host", "tool", "at"))
    policy = parse_policy(document, source="p.yaml", version="", lines={})
    use = RuleUse({rule.id: 5 for rule in policy.rules}, dict[str, RuleHits](), {}, {})
    group = BlockedGroup(str(tool) if tool else None, str(host or HOST), len(calls), NOW, NOW, calls)
    own = {(ip_address("127.0.0.1"), 8082)}
    return Outlook(policy, use, NOW, own).of(group, ip_address(str(at)) if at else None).value


GET = call(port=80, method="GET", path="/v1/x")
TABLE: list[tuple[str, str, list[object], tuple[BlockedCall, ...], dict[str, object]]] = [
    ("a rule for the host", "allowed", [HOST], (call(), GET), {}),
    ("no rule", "refused", [], (call(),), {}),
    ("one of its ports is still closed", "refused", [HOST], (call(), call(port=8080)), {}),
    ("one of its paths is still closed", "refused", [{"host": HOST, "ports": [80], "paths": ["/v2/**"]}], (GET,), {}),
    ("its path is open", "allowed", [{"host": HOST, "ports": [80], "paths": ["/v1/**"]}], (GET,), {}),
    ("what was in a tunnel that is inspected now", "refused", [{"host": HOST, "methods": ["GET"]}], (call(),), {}),
    ("report mode", "reported", [], (call(),), {"mode": "report"}),
    ("report mode, and a rule", "allowed", [HOST], (call(),), {"mode": "report"}),
    ("not TLS, and a rule for TLS", "refused", [HOST], (call("protocol_not_allowed"),), {}),
    ("not TLS, and a rule for anything", "allowed", [{"host": HOST, "protocols": ["tcp"]}],
     (call("protocol_not_allowed"),), {}),
    ("its address was refused", "refused", [HOST], (call("address_not_allowed"),), {}),
    ("its address was refused and is not on record, private ones are open", "refused",
     [{"host": HOST, "addresses": ["private"]}], (call("address_not_allowed"),), {}),
    ("its private address was refused, those are open", "allowed", [{"host": HOST, "addresses": ["private"]}],
     (call("address_not_allowed"),), {"at": "10.0.0.1"}),
    ("its reserved address was refused, private ones are open", "refused", [{"host": HOST, "addresses": ["private"]}],
     (call("address_not_allowed"),), {"at": "198.51.100.7"}),
    ("the proxy itself", "refused", [{"host": "127.0.0.1", "ports": [8082]}], (call("ip_literal", 8082),),
     {"host": "127.0.0.1"}),
    ("it did not say who it is", "refused", [HOST], (call("identity_missing"),), {"anonymous": "deny"}),
    ("a limit", "refused", [HOST], (call("limit_exceeded"),), {}),
    ("a reason of a later version", "refused", [HOST], (call("something_new"),), {}),
    ("a lease that has ended", "refused", [{"host": HOST, "expires": EARLIER}], (call(),), {}),
    ("a lease that stands", "allowed", [{"host": HOST, "expires": LATER}], (call(),), {}),
    ("a lease that is used up", "refused", [{"host": HOST, "max_uses": 5}], (call(),), {}),
    ("a lease with uses left", "allowed", [{"host": HOST, "max_uses": 6}], (call(),), {}),
    ("a deny that went", "allowed", [HOST], (call("explicit_deny"),), {}),
    ("a rule of its own that does not inherit", "refused", [HOST], (call(),),
     {"tool": "t@v1", "tools": {"t@v1": {"inherit_global": False}}}),
    ("a path that the roll-up does not know", "refused", [{"host": HOST, "ports": [80], "paths": ["/v1/**"]}],
     (call(port=80, method="GET", path="_other"),), {}),
    ("an address that a rule names", "allowed", ["127.0.0.9"], (call("ip_literal"),), {"host": "127.0.0.9"}),
    ("an address that is never dialled", "refused", ["0.0.0.0"], (call("ip_literal"),), {"host": "0.0.0.0"}),
]  # fmt: skip


@pytest.mark.parametrize(("told", "allow", "calls", "more"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_how_refused_calls_would_fare_now(
    told: str, allow: list[object], calls: tuple[BlockedCall, ...], more: dict[str, object]
) -> None:
    assert standing(allow, calls, more) == told
