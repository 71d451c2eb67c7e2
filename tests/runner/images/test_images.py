"""Images without a registry: where the packages come from, and what the built images are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.apt_mirror import Mirror, mirrors
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE
from cloned_proxy.runner.images.node_version import FIRST_WITH_PROXY, node_version
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.images.toolchain import pinned_version
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.runner.jobs import run

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [signed-by=/k.gpg arch=amd64] http://one.example/debian bookworm main contrib
deb-src http://source.example/debian bookworm main
deb http://extra.example/debian bookworm non-free
"""
DEB822 = """\
Types: deb deb-src
# URIs: http://commented.example/debian
URIs: http://two.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ONE_LINE, [Mirror("http://one.example/debian", "bookworm")]),
        (
            DEB822,
            [Mirror("http://two.example/debian", "bookworm"), Mirror("http://two.example/debian", "bookworm-updates")],
        ),
        ("", []),
    ],
)
def test_the_mirror_is_read_from_apts_own_sources(text: str, found: list[Mirror]) -> None:
    assert mirrors([text]) == found


@pytest.mark.docker
def test_building_again_takes_what_is_there(images: Engine) -> None:
    program = [sys.executable, "-m", "cloned_proxy"]
    done = subprocess.run([*program, "image", "build"], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, "mmdebstrap" in done.stderr) == (0, False), done.stderr
    assert "building cloned-worker:latest" in done.stderr


@pytest.mark.docker
def test_the_worker_has_what_agents_expect(images: Engine) -> None:
    names = "node npm npx uv uvx git ssh nc rg jq curl python3 pip3"
    script = f"for each in {names}; do command -v $each || echo $each; done; node --version; npm --version"
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", PYTHON_IMAGE, "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *found, node, npm = done.stdout.split()
    assert [path for path in found if not path.startswith("/")] == []
    assert (node, int(npm.partition(".")[0]) >= 11) == (f"v{pinned_version('node')}", True)
    assert node_version(images, PYTHON_IMAGE) == pinned_version("node")
    assert int(pinned_version("node").partition(".")[0]) >= FIRST_WITH_PROXY


@pytest.mark.docker
def test_fetch_of_the_workers_node_goes_through_the_proxy(runner: DockerContainerRunner, origin: int) -> None:
    program = f"fetch('http://127.0.0.1:{origin}/node').then(a => a.text()).then(console.log)"
    assert run(runner, "node", "-e", program).out == "origin /node\n\n"


@pytest.mark.docker
def test_the_holder_is_tiny_and_neither_image_runs_as_root(images: Engine) -> None:
    holder, worker = images.image(HOLDER_IMAGE), images.image(PYTHON_IMAGE)
    assert holder["Size"] < 100_000
    assert holder["Config"]["User"] == worker["Config"]["User"] == "65532:65532"
