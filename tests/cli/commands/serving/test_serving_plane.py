"""Which plane serves, told in the same words by `serve`, `status`, `doctor` and the metrics."""

from __future__ import annotations

import json

import pytest

from cloned_proxy.proxy.plane.choice import PlaneMode, choose
from tests.cli.program import Workspace


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_what_serves_is_said_everywhere(workspace: Workspace, mode: str) -> None:
    chosen = choose(PlaneMode(mode))
    serving = workspace.serve("--plane", mode)
    assert f"plane    {chosen.plane}: {chosen.why}" in serving.banner
    assert f'plane="{chosen.plane}"' in serving.page("/metrics").body
    assert json.loads(workspace.run("status", "--json").stdout)["plane"] == chosen.as_data()
    told = json.loads(workspace.run("doctor", "--json").stdout)["checks"]
    detail, _, fix = chosen.why.partition("; ")
    assert [(each["status"], each["detail"], each["fix"]) for each in told if each["name"] == "plane"] == [
        ("ok", f"{chosen.plane}: {detail}", fix)
    ]
