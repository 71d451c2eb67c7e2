"""The title of a version: what differs from the one before."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.model.changes import changes
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import parse_policy


def policy(*allow: object, mode: str = "enforce", **more: object) -> Policy:
    document = {"version": 1, "mode": mode, "global": {"allow": list(allow)}, **more}
    return parse_policy(document, source="p.yaml", version="", lines={})


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (policy("a.example"), policy("a.example", "b.example"), "+1 rule (b.example)"),
        (policy("a.example"), policy("b.example", "c.example"), "+2 rules (b.example, c.example), -1 rule (a.example)"),
        (policy("a.example"), policy("a.example", mode="report"), "mode report"),
        (policy("a.example"), policy({"host": "a.example", "reason": "x"}), "changed 1 rule (a.example)"),
        (policy("a.example", "b.example"), policy("b.example", "a.example"), "no rule changed"),
        (policy(), policy(*(f"h{n}.example" for n in range(5))), "+5 rules (h0.example, h1.example, h2.example, …)"),
    ],
)
def test_what_changed_in_a_few_words(before: Policy, after: Policy, told: str) -> None:
    assert changes(before, after) == told
