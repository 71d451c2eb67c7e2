"""A policy under test: what must stay allowed and what must never be, in the pytest of the project whose policy it is.

The `tests:` of the policy file see GET alone; here are the methods, the reasons and the end of a lease.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy import Policy, PolicyError, Reason, decide, load_policy

POLICIES = Path(__file__).parent / "policies"
SEARCH = "cloned.mcp.web.search@v1"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(POLICIES / "research.yaml")


def test_the_agent_can_search(policy: Policy) -> None:
    assert decide(policy, "https://api.search.brave.com/res/v1/web/search?q=egress", tool=SEARCH).passes


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_it_reads_it_cannot_write(policy: Policy, method: str) -> None:
    decision = decide(policy, "https://en.wikipedia.org/api/rest_v1/page", tool=SEARCH, method=method)
    assert decision.reason is Reason.METHOD_NOT_ALLOWED


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://127.0.0.1:5432/", "https://pastebin.com/"])
def test_nothing_else_is_reached(policy: Policy, url: str) -> None:
    assert not decide(policy, url, tool=SEARCH).passes


def test_a_program_without_a_name_reaches_nothing(policy: Policy) -> None:
    assert decide(policy, "https://en.wikipedia.org/").reason is Reason.IDENTITY_MISSING


def test_a_typing_error_is_found_before_it_is_in_force(tmp_path: Path) -> None:
    broken = tmp_path / "policy.yaml"
    broken.write_text((POLICIES / "research.yaml").read_text().replace("methods: [GET]", "method: [GET]", 1))
    with pytest.raises(PolicyError, match=r"policy\.yaml:9: "):
        load_policy(broken)
