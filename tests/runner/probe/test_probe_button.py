"""The button of the control UI: the control process asks, the serving process probes, everybody sees the outcome."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.cli.program import Workspace, eventually, policy_text
from tests.control.browser.scene import workspace_in
from tests.control.support import Control, control_of

pytestmark = pytest.mark.docker


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = workspace_in(tmp_path / "project" / ".cloned")
    made.path.parent.mkdir()
    made.write_policy(policy_text())
    yield made
    made.close()


def test_a_probe_that_was_asked_for_runs_once_and_is_on_record(images: Engine, workspace: Workspace) -> None:
    workspace.environment |= {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}
    browser = control_of(workspace, workspace.serve("--control", "127.0.0.1:0")).paired("phone")
    state = browser.api("/probe")
    assert (state["probe"], state["possible"], state["running"]) == (None, True, False)
    began = time.time()
    assert browser.post("/probe", {}).json == {"begun": True}
    assert browser.post("/probe", {}).status == 409, "one at a time"
    stages = set[str]()

    def ended() -> bool:
        now = browser.api("/probe")
        stages.add(now["stage"])
        return not now["running"]

    eventually(ended, 60, "the end of the probe")
    eventually(lambda: browser.api("/probe")["probe"], what="its outcome")
    probe = browser.api("/probe")["probe"]
    assert (probe["sealed"], probe["failures"], probe["actor"]) == (True, [], "device:phone")
    assert probe["at"] > began
    assert [stage for stage in stages if "attempts" in stage], stages
    assert browser.post("/probe", {}).status == 409, "nor at once behind it"
    assert reads_only(browser)


def reads_only(browser: Control) -> bool:
    """Whether a token for reading is refused."""
    token = browser.workspace.json("pair", "--api", "--read-only")["token"]
    return bool(Control(browser.workspace, browser.port, bearer=token).post("/probe", {}).json["error"] == "read_only")
