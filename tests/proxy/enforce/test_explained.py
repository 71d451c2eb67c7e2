"""`explain --resolve` and the gate say the same, whatever the policy is and whatever the names resolve to."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.enforce import enforced
from cloned_proxy.proxy.grants.grant import Refusal
from cloned_proxy.telemetry.events import Kind
from tests.policy.tables import policy_of
from tests.proxy.support import World, world

TOOL = Principal("demo@v1", "run", CallerSource.LISTENER)
NAMES = ("a.example.com", "b.example.com", "c.example.net", "intranet")
ADDRESSES = ("93.184.216.34", "8.8.8.8", "10.20.3.4", "10.21.0.1", "127.0.0.1", "198.18.0.1", "169.254.169.254",
             "100.64.0.1", "2606:4700::1111", "fd00::5", "::1", "::ffff:10.20.3.4", "64:ff9b::808:808",
             "224.0.0.1")  # fmt: skip
NETWORKS = ("10.20.0.0/16", "10.0.0.0/8", "100.64.0.0/10", "198.18.0.0/15", "fd00::/32", "93.184.0.0/16", "127.0.0.0/8")
HOSTS = (*NAMES[:3], "*.example.com", "**.example.com", "10.20.3.4", "127.0.0.1", "8.8.8.8")


@st.composite
def entries(draw: st.DrawFn, *, denies: bool) -> dict[str, Any]:
    if draw(st.booleans()):
        entry: dict[str, Any] = {"cidr": draw(st.sampled_from((*NETWORKS, "0.0.0.0/0") if denies else NETWORKS))}
    else:
        entry = {"host": draw(st.sampled_from(HOSTS))}
        if not denies and draw(st.booleans()):
            entry["addresses"] = draw(st.lists(st.sampled_from(["private", "reserved"]), min_size=1, unique=True))
    if not denies and draw(st.booleans()):
        entry["ports"] = draw(st.sampled_from([[443], [80, 443], [5432, 443], [22]]))
    if denies and draw(st.booleans()):
        entry["except"] = [draw(st.sampled_from(["a.example.com", "10.20.3.4", "10.20.0.0/24", "*.a.example.com"]))]
    if draw(st.integers(0, 3)) == 0:
        entry["expires"] = draw(st.sampled_from(["2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"]))
    return entry


def _valid(denies: bool, entry: dict[str, Any]) -> bool:
    with contextlib.suppress(PolicyError):
        policy_of(global_={"deny" if denies else "allow": [entry]})
        return True
    return False


def _lists(*, denies: bool, most: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    some = entries(denies=denies).filter(lambda entry: _valid(denies, entry))
    return st.lists(some, max_size=most, unique_by=lambda entry: str(entry.get("host", entry.get("cidr"))))


POLICIES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["enforce", "report"]),
        "global_": st.fixed_dictionaries({"allow": _lists(denies=False, most=4), "deny": _lists(denies=True, most=2)}),
        "tools": st.fixed_dictionaries(
            {
                "demo@v1": st.fixed_dictionaries(
                    {
                        "allow": _lists(denies=False, most=4),
                        "deny": _lists(denies=True, most=2),
                        "inherit_global": st.booleans(),
                        "public": st.booleans(),
                        "limits": st.just({"requests_per_minute": 10_000}),
                    }
                )
            }
        ),
    }
)
RESOLVED = st.fixed_dictionaries(
    dict.fromkeys(NAMES, st.lists(st.sampled_from(ADDRESSES).map(ip_address), min_size=1, max_size=3).map(tuple))
)


async def _compare(w: World, host: str, port: int) -> bool:
    request = Request(host, port)
    gate = await w.enforcer.authorise(TOOL, request, Kind.TUNNEL)
    with mock.patch.object(enforced, "look_up", lambda name: w.resolver.table[name]):
        decision = decide(w.policies.current, TOOL, request, w.enforcer._clock())
        told = enforced.as_enforced(decision, w.own, ask=True).decision
    found = gate.decision
    assert (told.verdict, told.reason, told.refused_address) == (found.verdict, found.reason, found.refused_address)
    assert (told.rule and told.rule.id) == (found.rule and found.rule.id)
    if not isinstance(gate, Refusal):
        w.enforcer.finish(gate, "closed")
    return told.passes


async def test_explain_says_what_the_gate_does() -> None:
    seen: set[bool] = set()
    async with world() as w:
        cases: list[tuple[Any, Any, str, int]] = []

        @settings(max_examples=150, database=None)
        @given(POLICIES, RESOLVED, st.sampled_from((*NAMES, *ADDRESSES)), st.sampled_from([443, 80, 5432, 22]))
        def collect(policy: Any, table: Any, host: str, port: int) -> None:
            cases.append((policy, table, host, port))

        collect()
        for policy, table, host, port in cases:
            w.policies.current, w.resolver.table = policy_of(**policy), table
            seen.add(await _compare(w, host, port))
    assert seen == {True, False}
