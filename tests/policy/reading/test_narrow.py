"""A local policy takes away and never gives: what passes the two passes each of them, at each stage."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.deciding.decide import decide, decide_tunnel, needs_hello
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.narrow import check_narrowing, narrowed
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.vocabulary import Verdict
from cloned_proxy.store.policyfile.policy_file import parse_bytes

ENTRIES = (
    "a.example", "b.example", "{host: a.example, ports: [443, 8443]}",
    "{host: a.example, methods: [GET]}", "{host: a.example, paths: ['/x/**']}",
    "{host: a.example, protocols: [tcp]}", "{host: b.example, protocols: [ssh], ports: [443]}",
    "{host: a.example, addresses: [private]}",
)  # fmt: skip
entries = st.lists(st.sampled_from(ENTRIES), unique=True)
type Side = tuple[list[str], list[str], str]
"""Allowed, denied, and the mode."""
_NET = "{cidr: 93.184.215.0/24}"
sides = st.tuples(
    entries,
    st.lists(st.sampled_from(["a.example", "b.example", _NET]), unique=True),
    st.sampled_from(["enforce", "report"]),
)
hosts = st.sampled_from(["a.example", "b.example", "c.example"])
addresses = st.sampled_from(["10.0.0.1", "93.184.215.14"])
hellos = st.sampled_from([None, (), ("a.example",), ("b.example",)])


def policy(allow: list[str], deny: list[str] | None = None, more: str = "") -> Policy:
    lines = [f"version: 1\nanonymous: global\n{more}global:\n  allow: [{', '.join(allow)}]"]
    return parse_bytes(f"{lines[0]}\n  deny: [{', '.join(deny or [])}]\n".encode(), source="p")


@example([ENTRIES[1]], [ENTRIES[6]], [], "b.example", 443, (None, None), "93.184.215.14", (), True)
@given(
    entries,
    entries,
    st.lists(st.sampled_from(["a.example", "b.example"]), unique=True),
    hosts,
    st.sampled_from([443, 8443]),
    st.sampled_from([(None, None), ("GET", "/x/y"), ("POST", "/z")]),
    addresses,
    hellos,
    st.booleans(),
)
def test_what_passes_both_passes_each(  # noqa: PLR0917  what hypothesis draws
    fleet: list[str],
    local: list[str],
    deny: list[str],
    host: str,
    port: int,
    asked: tuple[str | None, str | None],
    address: str,
    names: tuple[str, ...] | None,
    ssh: bool,
) -> None:
    one, other = policy(fleet), policy(local, deny)
    request = Request(host, port, *asked)

    def stages(each: Policy) -> tuple[bool, bool, bool]:
        decision = decide(each, ANONYMOUS, request, 0.0)
        dialled = decide_addresses(decision, [ip_address(address)], frozenset())
        return decision.passes, dialled.passes, decide_tunnel(decision, names, ssh=ssh).passes

    both, alone = stages(narrowed(one, other)), (stages(one), stages(other))
    assert both == tuple(first and second for first, second in zip(*alone, strict=True))
    joined = decide(narrowed(one, other), ANONYMOUS, request, 0.0)
    if joined.passes:
        each = [decide(one, ANONYMOUS, request, 0.0), decide(other, ANONYMOUS, request, 0.0)]
        assert joined.inspect == any(decision.inspect for decision in each)
        assert needs_hello(joined) == any(map(needs_hello, each))


def weight(decision: Decision) -> int:
    return (Verdict.ALLOW, Verdict.REPORT, Verdict.DENY).index(decision.verdict)


@example(([ENTRIES[0]], [], "report"), ([ENTRIES[0]], [], "enforce"), "a.example", "93.184.215.14", ("b.example",))
@example(([ENTRIES[0]], [], "report"), ([ENTRIES[0]], [], "report"), "a.example", "93.184.215.14", ("b.example",))
@example(([ENTRIES[0]], [], "enforce"), ([], [], "report"), "a.example", "93.184.215.14", ("a.example",))
@example(([ENTRIES[5]], [], "enforce"), ([ENTRIES[0]], [], "report"), "a.example", "93.184.215.14", ("b.example",))
@example(([ENTRIES[0]], [], "enforce"), ([ENTRIES[0]], [_NET], "report"), "a.example", "93.184.215.14", ())
@given(sides, sides, hosts, addresses, hellos)
def test_the_stricter_of_two_policies_is_what_is_said(
    fleet: Side, local: Side, host: str, address: str, names: tuple[str, ...] | None
) -> None:
    one, other = (policy(allow, deny, f"mode: {mode}\n") for allow, deny, mode in (fleet, local))
    request = Request(host, 443)

    def stages(each: Policy) -> Iterator[Decision]:
        yield (decision := decide(each, ANONYMOUS, request, 0.0))
        yield (decision := decide_addresses(decision, [ip_address(address)], frozenset()))
        yield decide_tunnel(decision, names)

    before: Decision | None = None
    seen: list[Decision] = []
    for both, *alone in zip(stages(narrowed(one, other)), stages(one), stages(other), strict=True):
        strictest = max(map(weight, alone))
        assert weight(both) == strictest
        assert both.reason in {each.reason for each in alone if weight(each) == strictest}
        if before is not None and both.verdict is Verdict.REPORT and alone != seen:
            assert both is not before  # or nothing would be recorded
        before, seen = both, alone


def test_the_lower_limit_counts() -> None:
    limits = "tools: {{t@v1: {{limits: {{{}}}}}}}\n"
    one = policy([], more=limits.format("concurrent: 4, requests_per_minute: 10"))
    other = policy([], more=limits.format("concurrent: 9, bytes_per_hour: 5"))
    found = narrowed(one, other).scope_of("t@v1").limits
    assert (found.concurrent, found.requests_per_minute, found.bytes_per_hour) == (4, 10, 5)
    alone = narrowed(policy([]), other).scope_of("t@v1").limits
    assert (alone.concurrent, alone.bytes_per_hour) == (9, 5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("mode: report\n", "report mode"),
        ("tools: {t@v1: {allow: [{host: a.example, max_uses: 3}]}}\n", "max_uses"),
        ("tools: {t@v1: {allow: [{host: a.example, idle: 2h}]}}\n", "idle"),
        ("tools: {t@v1: {allow: [{host: a.example, inject: {header: A, value: b}}]}}\n", "inject"),
    ],
)
def test_what_is_more_than_a_yes_or_no_is_refused(text: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=word):
        check_narrowing(policy([], more=text))
