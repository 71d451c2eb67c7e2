"""The update tool, in a sealed container and in a process: the listener, or the token, is who asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.errors import ToolFailedError
from cloned_proxy.runner.process import ProcessRunner
from cloned_proxy.runner.runner import DockerContainerRunner
from cloned_proxy.store.approvals import ApprovalService
from cloned_proxy.store.workspace import Workspace
from tests.runner.conftest import Serving, start_serving

TOOL = "cloned.internal.security.egress.update@v1"
DEMO = "demo.tool@v1"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    (workspace / "policy.yaml").write_text(f"version: 1\ntools:\n  {TOOL}: {{may_request: [{DEMO}]}}\n")
    started = start_serving(workspace)
    yield started
    started.stop()


def ask_for_the_demo_tool(runner: DockerContainerRunner | ProcessRunner, workspace: Path) -> None:
    before = (workspace / "policy.yaml").read_bytes()
    wish = {"tool_id": DEMO, "domains": ["api.example.com"], "for": "30m", "reason": "to look things up"}
    answer = runner.run_tool(TOOL, wish).output
    approvals = ApprovalService(Workspace(workspace))
    (approval,) = approvals.list("pending")
    assert (answer["id"], answer["state"]) == (approval.id, "pending")
    assert (approval.asker, approval.tool, approval.for_seconds) == (TOOL, DEMO, 1800.0)
    with pytest.raises(ToolFailedError, match="may_request"):
        runner.run_tool(TOOL, {"domains": ["api.example.com"], "scope": "global"})
    with pytest.raises(ToolFailedError, match="would allow every host"):
        runner.run_tool(TOOL, {"tool_id": DEMO, "domains": ["*"]})
    assert (workspace / "policy.yaml").read_bytes() == before
    approvals.approve(approval.id, actor="cli:tester")
    assert "api.example.com" in (workspace / "policy.yaml").read_text()


def test_a_process_asks_with_its_token(serving: Serving) -> None:
    ask_for_the_demo_tool(ProcessRunner(workspace=serving.workspace), serving.workspace)


@pytest.mark.docker
def test_a_sealed_container_asks_through_its_listener(images: object, serving: Serving) -> None:
    with DockerContainerRunner(workspace=serving.workspace) as runner:
        ask_for_the_demo_tool(runner, serving.workspace)
