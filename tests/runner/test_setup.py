"""What `setup docker` writes is what a real docker command gives its containers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from tests.cli.conftest import workspace as workspace  # noqa: PLC0414  a fixture of these tests, too
from tests.cli.program import Workspace, policy_text
from tests.net.clients import needed

pytestmark = pytest.mark.docker


def test_a_container_of_docker_gets_the_proxy(images: Engine, workspace: Workspace, tmp_path: Path) -> None:
    workspace.environment |= {"HOME": str(tmp_path), "CLONED_EGRESS_PROXY": "http://127.0.0.1:18081"}
    workspace.write_policy(policy_text())

    def variables() -> list[str]:
        environment = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ}
        done = subprocess.run(
            [needed("docker"), "run", "--rm", "--network", "none", PYTHON_IMAGE, "env"],
            env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout.splitlines()

    assert workspace.call("setup", "docker", "--write").returncode == 0
    assert {"HTTPS_PROXY=http://127.0.0.1:18081", "http_proxy=http://127.0.0.1:18081"} <= set(variables())
    assert workspace.call("setup", "docker", "--undo").returncode == 0
    assert not any("18081" in line for line in variables())
