"""What the tables of networks and of the public internet have in common: one tool, and a name that leads somewhere."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from tests.policy.tables import policy_of

NOW = 1_800_000_000.0
TOOL = Principal("demo@v1", source=CallerSource.LISTENER)
OWN = {(ip_address("10.20.0.1"), 8081), (ip_address("127.0.0.1"), 8081)}
LIMITS = {"requests_per_minute": 60}


def asked(policy: Policy, host: str, *addresses: str, port: int = 443, **request: str) -> Decision:
    decision = decide(policy, TOOL, Request(host, port, **request), NOW)
    found = [ip_address(text) for text in addresses or (host,)]
    return decide_addresses(decision, found, OWN)


def of_tool(*allow: object, deny: tuple[object, ...] = (), **more: Any) -> Policy:
    return policy_of(tools={"demo@v1": {"allow": [*allow], "deny": [*deny], **more}})
