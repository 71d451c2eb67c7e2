"""The commands that the project began with, as they stand there: what a reader of it types must work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.pipelines.pipeline import load_pipeline
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, workspace_mark
from cloned_proxy.share import share_path
from tests.runner.llm.test_llm import stand_in as model_image
from tests.runner.pipelines.test_run import StandIn, go, runs_of, stand_in, workspace

__all__ = ["model_image", "stand_in", "workspace"]

pytestmark = pytest.mark.docker
TOPIC = load_pipeline("pipeline.research.report", Path("/nowhere")).inputs["topic"].default

type Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def shell(model_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell in a fresh copy of the project's folders; `docker compose` is whichever Compose this machine has."""
    place = tmp_path_factory.mktemp("seed")
    shutil.copytree(share_path("compose"), place / "compose")
    (place / ".cloned").mkdir(mode=0o700)
    for name in ("models", "backends"):
        (place / "compose" / name).mkdir(exist_ok=True)
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        if shutil.which("docker-compose") is None:
            pytest.skip("no Compose: apt-get install docker-compose")
        instead = 'docker() { if [ "$1" = compose ]; then shift; docker-compose "$@"; else command docker "$@"; fi; }\n'
    else:
        instead = ""
    program = f'cloned-proxy() {{ {shlex.quote(sys.executable)} -m cloned_proxy "$@"; }}\n'
    env = {**os.environ, "LOCALAI_IMAGE": model_image, "COMPOSE_PROJECT_NAME": "cloned-seed"}

    def run(line: str) -> str:
        words = ["bash", "-c", f"{instead}{program}{line}"]
        done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    run("docker compose -f compose/compose.local-llm.yaml up -d")
    yield run
    run("docker compose -f compose/compose.local-llm.yaml down --timeout 1")


def test_the_model_is_published_on_the_loopback_alone(shell: Shell) -> None:
    said = shell("docker inspect cloned-localai --format '{{.HostConfig.PortBindings}}'")
    assert said == "map[8080/tcp:[{127.0.0.1 8080}]]"


def test_the_model_runs_as_nobody_in_particular(shell: Shell) -> None:
    assert shell("docker exec cloned-localai id -u") == "65532"


def test_the_model_writes_to_tmp_and_nowhere_in_the_system(shell: Shell) -> None:
    shell("docker exec cloned-localai touch /tmp/x")
    shell("! docker exec cloned-localai touch /etc/x")


def test_the_model_has_its_limits_on_a_machine_of_any_size(shell: Shell) -> None:
    form = "{{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"
    assert shell(f"docker inspect cloned-localai --format '{form}'") == f"400000 100000 {8 * 1024**3} 256"


def test_the_model_is_ready(shell: Shell) -> None:
    """From inside: the engine of the tests leaves the host's packet filter alone, so that it publishes no port."""
    deadline = time.monotonic() + 60
    line = (
        "docker exec cloned-localai curl --noproxy '*' -fsS -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/readyz"
    )
    while shell(f"{line} || true") != "200":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_workspaces_proxy_is_shown_and_set(shell: Shell) -> None:
    assert re.search(r"^effective +http://127\.0\.0\.1:8081$", shell("cloned-proxy proxy"), re.MULTILINE)
    said = shell("cloned-proxy proxy --set http://127.0.0.1:18081")
    assert re.search(r"^effective +http://127\.0\.0\.1:18081$", said, re.MULTILINE)
    assert "127.0.0.1:18081" in shell("cloned-proxy proxy")
    shell("cloned-proxy proxy --clear")


def test_a_dry_run_without_a_topic_runs_each_handler_in_a_container_of_its_own(
    workspace: Path, stand_in: StandIn, images: Engine
) -> None:
    began = int(time.time())
    done = go(workspace, stand_in, "--sandbox", "container", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"topic: {TOPIC}" in done.stderr
    runs = runs_of(workspace)
    assert [(result, dry) for _, result, dry in runs] == [("ok", True)] * 3
    ours = json.dumps({"event": ["start"], "label": [f"{WORKSPACE_LABEL}={workspace_mark(workspace)}"]})
    until = int(time.time()) + 1
    said = images._api.ask_raw("GET", "/events", timeout=60, since=began, until=until, filters=ours)
    made = [json.loads(line)["Actor"]["Attributes"] for line in said.splitlines()]
    tools = [row["cloned.tool"] for row in made if re.fullmatch(r"cloned_tool_[0-9a-f]{8}", row["name"])]
    assert sorted(tools) == sorted(tool for tool, _, _ in runs)


def test_every_input_of_a_shipped_pipeline_has_a_default() -> None:
    for file in share_path("config", "pipelines").glob("*.yaml"):
        inputs = yaml.safe_load(file.read_text())["inputs"]
        assert [name for name, spec in inputs.items() if spec.get("default") in (None, "")] == [], file
