"""What a tool may read of itself: its rules, its refusals and verdicts, and nothing of anybody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.proxy.enforce.asking import Asking
from cloned_proxy.proxy.own.own_view import OwnView
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.telemetry.events import DecisionEvent, Kind
from tests.proxy.own.test_requests_api import AtOnce
from tests.proxy.support import Audit, Policies
from tests.store.asking import NOW, TOOL, Scene

POLICY = f"""version: 1
global: {{allow: [everybody.example.com], deny: [never.example.com]}}
tools:
  {TOOL}:
    allow:
      - {{host: api.example.com, ports: [443], methods: [GET], paths: ["/v1/**"],
         inject: {{header: X-Key, value: "${{vault:its.key}}"}}, reason: private}}
      - {{host: over.example.com, expires: 2001-01-01T00:00:00Z}}
  other@v1: {{allow: [others.example.com]}}
"""


class View:
    """The API with a policy and a log of its own."""

    def __init__(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path / "ws")
        scene.policy_file.write_text(POLICY)
        self.state = scene.workspace.state_db
        self.api = RequestsApi(
            ApprovalService(scene.workspace),
            cast(Asking, AtOnce()),
            policies=Policies(load_policy(scene.policy_file, NOW)),
            audit=Audit(),
            view=OwnView(self.state, lambda: NOW),
        )

    async def get(self, path: str, *, tool: str = TOOL) -> tuple[int, Any]:
        refusal = self.api.refusal(tool, "GET", path, None)
        assert refusal is None
        answer = await self.api.answer(Principal(tool, "r"), "GET", path, b"")
        return answer.status, json.loads(answer.body)


@pytest.fixture
def view(tmp_path: Path) -> View:
    return View(tmp_path)


async def test_rules_are_ones_own_and_the_global_ones_without_what_is_injected(view: View) -> None:
    status, body = await view.get("/v1/egress/rules")
    assert status == 200
    assert [rule["host"] for rule in body["allow"]] == ["api.example.com", "everybody.example.com"]
    assert (body["deny"], body["default"]) == (["never.example.com"], "deny")
    text = json.dumps(body)
    for secret in ("vault", "X-Key", "private", "policy.yaml", "others.example.com"):
        assert secret not in text


async def test_refusals_are_ones_own_of_a_day_each_counted_once(view: View) -> None:
    with AuditLog(view.state) as log:
        for tool, host, at in (
            (TOOL, "a.example", NOW - 90_000), (TOOL, "b.example", NOW - 9), (TOOL, "b.example", NOW - 8),
            (TOOL, "c.example", NOW - 7), ("other@v1", "secret.example", NOW - 6),
        ):  # fmt: skip
            log.append(decision(tool, host, at))
    _, body = await view.get("/v1/egress/denials")
    assert [(each["host"], each["count"]) for each in body["denials"]] == [("c.example", 1), ("b.example", 2)]
    assert "secret.example" not in json.dumps(body)


@pytest.mark.parametrize(
    ("query", "verdict"),
    [
        ("url=https%3A%2F%2Fapi.example.com%2Fv1%2Fx", ("allow", "allowed")),
        ("url=https%3A%2F%2Fapi.example.com%2Fv1%2Fx&method=POST", ("deny", "method_not_allowed")),
        ("url=https%3A%2F%2Fothers.example.com%2F", ("deny", "host_not_allowed")),
        ("url=nonsense", ("deny", "malformed_request")),
    ],
)
async def test_a_verdict_is_that_of_the_policy_for_this_tool(view: View, query: str, verdict: tuple[str, str]) -> None:
    status, body = await view.get(f"/v1/egress/verdict?{query}")
    assert status == 200
    assert (body["verdict"], body["reason"]) == verdict


@pytest.mark.parametrize("query", ["", "url=a&url=b", "url=https%3A%2F%2Fa.example&tool=other%40v1"])
async def test_another_question_is_refused(view: View, query: str) -> None:
    status, body = await view.get(f"/v1/egress/verdict?{query}")
    assert (status, body["error"]) == (400, "bad_request")


def test_nothing_is_written_by_these_paths(view: View) -> None:
    for path in ("/v1/egress/rules", "/v1/egress/denials", "/v1/egress/verdict"):
        answer = view.api.refusal(TOOL, "POST", path, 2)
        assert answer is not None
        assert answer.status == 405


def decision(tool: str, host: str, at: float) -> DecisionEvent:
    return DecisionEvent(
        f"d{at:.0f}", at, Kind.TUNNEL, "deny", "host_not_allowed", tool, "r", host, 443, "CONNECT", "", "", "v", ""
    )
