"""Which plane serves, told in the same words by `serve`, `status`, `doctor` and the metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloned_proxy.proxy.plane.choice import PlaneMode, choose
from tests.cli.program import Workspace
from tests.proxy.support import need_plane


def told_by_doctor(workspace: Workspace) -> list[tuple[str, str, str]]:
    checks: list[dict[str, Any]] = json.loads(workspace.run("doctor", "--json").stdout)["checks"]
    return [(each["status"], each["detail"], each["fix"]) for each in checks if each["name"] == "plane"]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_what_serves_is_said_everywhere(workspace: Workspace, mode: str) -> None:
    chosen = choose(PlaneMode(mode))
    serving = workspace.serve("--plane", mode)
    assert f"plane    {chosen.plane}: {chosen.why}" in serving.banner
    assert f'plane="{chosen.plane}"' in serving.page("/metrics").body
    assert json.loads(workspace.run("status", "--json").stdout)["plane"] == chosen.as_data()
    detail, _, fix = chosen.why.partition("; ")
    assert told_by_doctor(workspace) == [("ok", f"{chosen.plane}: {detail}", fix)]


def test_that_python_serves_the_listener_behind_a_load_balancer_is_said_everywhere(workspace: Workspace) -> None:
    need_plane()
    workspace.path.mkdir(mode=0o700)
    settings = workspace.path / "config.yaml"
    settings.write_text("listen: {proxy_protocol_from: [10.0.0.5]}\n")
    settings.chmod(0o600)
    why = "1 thread, for sandboxes; listen.proxy_protocol_from is set, so Python serves the address of --listen"
    assert told_by_doctor(workspace) == [("ok", f"native: {why}", "")]  # of the proxy that `serve` would start
    serving = workspace.serve()
    assert f"plane    native: {why}" in serving.banner
    assert json.loads(workspace.run("status", "--json").stdout)["plane"] == {"serving": "native", "why": why}
    assert f"native: {why}" in workspace.run("status").stdout
    assert told_by_doctor(workspace) == [("ok", f"native: {why}", "")]
