"""Each file of examples/, as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloned_proxy import load_policy
from cloned_proxy.runner.docker.engine import Engine
from tests.net.asker import decide, pending
from tests.net.proxy_process import PROGRAM
from tests.net.world import World
from tests.pinned_wheels import needed, unpacked
from tests.runner.conftest import leftovers, start_serving

pytestmark = pytest.mark.checkout
EXAMPLES = Path(__file__).parents[2] / "examples"
POLICIES = sorted((EXAMPLES / "policies").glob("*.yaml"))


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_the_policies_pass_their_own_tests(file: Path) -> None:
    assert load_policy(file).tests


def test_the_tests_of_a_policy_pass_in_a_pytest_of_their_own(tmp_path: Path) -> None:
    here = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-q", *here, str(EXAMPLES / "test_policy.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout


@pytest.mark.net
@pytest.mark.parametrize("yes", [True, False])
def test_the_agent_goes_on_after_the_yes_and_not_after_the_no(world: World, yes: bool) -> None:
    proxy = world.serve("version: 1\n")
    marker = world.marker()
    try:
        environment = {"CLONED_WORKSPACE": str(proxy.workspace)}
        command = [sys.executable, str(EXAMPLES / "agent_with_approval.py"), f"http://docs.example.com/{marker}"]
        agent = world.spawn(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not pending(proxy):
            assert agent.poll() is None, agent.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert world.saw(marker) == []
        decide(proxy, "approve" if yes else "reject", pending(proxy)[0]["id"])
        said, told = agent.communicate(timeout=60)
        assert (agent.returncode == 0) is yes, told
        assert bool(world.saw(marker)) is yes
        assert bool(said) is yes
        assert b"refused: host_not_allowed" in told
    finally:
        proxy.stop()


@pytest.mark.net
def test_the_steps_of_the_job_run_in_its_order_behind_the_proxy(world: World, tmp_path: Path) -> None:
    """In one shell, and without the first two: here the checkout is a folder, and the program is installed."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"]["build"]
    steps = [step["run"] for step in job["steps"] if "pipx install" not in step.get("run", "pipx install")]
    assert len(steps) == len(job["steps"]) - 2
    workspace = tmp_path / ".cloned"
    workspace.mkdir(mode=0o700)
    (workspace / "policy.yaml").write_text((EXAMPLES / "policies/ci.yaml").read_text())
    recipe = "curl -sS -m 20 https://docs.example.com/ || echo curl ended with $$?"
    (tmp_path / "Makefile").write_text(f"build:\n\t{recipe}\n")
    script = "\n".join(("trap 'kill $! && wait $!' EXIT", *steps))
    paths = {"PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(tmp_path)}
    world.reset()
    done = world.run(["bash", "-e", "-c", script], env=paths, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "curl ended with 56" in done.stdout
    assert "docs.example.com" in done.stdout.partition("curl ended")[2]  # what `log --denied` prints
    assert not world.touched("docs.example.com")


@pytest.mark.docker
@pytest.mark.timeout(300, func_only=True)  # the engine and its images may take minutes to come
@pytest.mark.skipif(sys.version_info[:2] != (3, 13), reason="the wheels of agent_sdks.lock are for Python 3.13")
def test_the_langchain_tool_tells_the_model_why(images: Engine, tmp_path: Path) -> None:
    site = needed(lambda: unpacked(EXAMPLES.parent / "tests/docs/agent_sdks.lock")) / "site"
    project = tmp_path / "project"
    workspace = project / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    project.chmod(0o755)
    (workspace / "policy.yaml").write_text("version: 1\n")
    serving = start_serving(workspace)
    try:
        # The site stands behind our own packages, so that it adds what is missing and replaces nothing.
        program = f"import runpy, sys; sys.path.append({str(site)!r}); runpy.run_path(sys.argv[1], run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", program, str(EXAMPLES / "langchain_tool.py")],
            cwd=project,
            env=os.environ | {"LANGSMITH_TRACING": "false"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        serving.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not fetched: curl: (56)"), done.stdout
    assert "host_not_allowed" in done.stdout or "403" in done.stdout
    assert leftovers(images, workspace) == []
