"""A bad day of the local model: it dies, grows, is flooded, or says what a tool should not do. The slot holds."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.llm.state import CONTAINER
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.cli.program import Origin
from tests.runner.conftest import Serving, leftovers, start_serving
from tests.runner.jobs import TOOL, sh
from tests.runner.llm_support import build_stand_in, llm, settings

pytestmark = pytest.mark.docker
URL = "http://127.0.0.1:8080/v1/chat/completions"
STREAMS = 100

MANY = f"""
import json, threading, urllib.request
body = json.dumps({{"messages": [{{"role": "user", "content": " ".join(["word"] * 40)}}], "stream": True}}).encode()
whole = []
def one():
    request = urllib.request.Request("{URL}", body, {{"Content-Type": "application/json"}})
    with urllib.request.urlopen(request, timeout=100) as answer:
        text = answer.read().decode()
    whole.append(text.count('"word"') == 40 and text.rstrip().endswith("[DONE]"))
threads = [threading.Thread(target=one) for _ in range({STREAMS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(whole))
"""

AGENT = f"""
import json, sys, urllib.request
body = json.dumps({{"messages": [{{"role": "user", "content": "tool " + sys.argv[1]}}]}}).encode()
request = urllib.request.Request("{URL}", body, {{"Content-Type": "application/json"}})
message = json.load(urllib.request.urlopen(request))["choices"][0]["message"]
for call in message["tool_calls"]:
    url = json.loads(call["function"]["arguments"])["url"]
    try:
        print(urllib.request.urlopen(url, timeout=10).status)
    except OSError as error:
        print(error)
"""


@dataclass
class Model:
    workspace: Path
    runner: DockerContainerRunner
    canary: Origin

    def up(self) -> None:
        done = llm("up", self.workspace)
        assert done.returncode == 0, done.stderr

    def chat(self, text: str, how: str = "") -> str:
        body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True})
        return f"curl -sS -N {how} -H 'Content-Type: application/json' -d '{body}' {URL}"


@pytest.fixture(scope="module")
def model(images: Engine, host_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    root = tmp_path_factory.mktemp("faults") / "code" / ".cloned"
    (root.parent / "models").mkdir(parents=True)
    root.mkdir(mode=0o700)
    canary = Origin()
    (root / "policy.yaml").write_text(
        "version: 1\ntools:\n"
        f"  {TOOL}: {{allow: [{{host: 127.0.0.1, ports: [8080]}}]}}\n"
        f"  fooled@v1: {{allow: [{{host: 127.0.0.1, ports: [8080, {canary.port}]}}]}}\n"
    )
    settings(root, image=build_stand_in(images), memory="96m", cpus=1.0)
    serving: Serving | None = None
    runner = DockerContainerRunner(workspace=root)
    try:
        made = Model(root, runner, canary)
        made.up()
        serving = start_serving(root)
        yield made
    finally:
        runner.close()
        if serving is not None:
            serving.stop()
        llm("down", root)
        canary.close()
    assert leftovers(images, root) == []


def ended(engine: Engine) -> None:
    deadline = time.monotonic() + 30
    while engine.state(CONTAINER).running:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_prompt_of_two_megabytes_arrives_whole(model: Model) -> None:
    script = (
        """python3 -c 'import json; text = [{"content": "x" * 2_000_000}, {"content": "size"}]
print(json.dumps({"messages": text}))'"""
        f" > /sandbox/body; wc -c < /sandbox/body; curl -sS -H 'Content-Type: application/json' -d @/sandbox/body {URL}"
    )
    size, answer = sh(model.runner, script).out.split("\n", 1)
    assert int(json.loads(answer)["choices"][0]["message"]["content"].split()[0]) in (int(size), int(size) - 1)


def test_a_hundred_streams_at_once_are_all_whole(model: Model) -> None:
    assert sh(model.runner, f"python3 - <<'END'\n{MANY}\nEND", timeout=110).out.strip() == str(STREAMS)


def test_what_the_model_wants_is_decided_as_everything_else(model: Model) -> None:
    """A tool that does whatever the model says: what it may reach is the tool's own rules, not the model's wish."""
    url = f"http://127.0.0.1:{model.canary.port}/stolen"
    script = f"python3 - {url} <<'END'\n{AGENT}\nEND"
    refused = sh(model.runner, script).out
    assert "403" in refused
    assert "ip_literal" in refused or "not_allowed" in refused
    assert model.canary.seen == []
    assert sh(model.runner, script, tool="fooled@v1").out.strip() == "200"  # the attack works where a rule is wrong
    assert len(model.canary.seen) == 1


def test_a_model_that_dies_in_the_middle_is_no_whole_answer(model: Model, images: Engine) -> None:
    seen = sh(model.runner, f"{model.chat('die')}; echo curl says $?")
    assert "three" in seen.out, "what was said before arrives"
    assert "[DONE]" not in seen.out
    assert "curl says 0" not in seen.out
    ended(images)
    status = llm("status", model.workspace)
    assert (status.returncode, "container ended" in status.stdout) == (1, True)
    assert llm("down", model.workspace).returncode == 0
    assert images.find(CONTAINER) is None
    model.up()


def test_a_model_that_grows_is_killed_and_said_to_be_too_large(model: Model, images: Engine) -> None:
    seen = sh(model.runner, f"{model.chat('hog')}; echo curl says $?", timeout=60)
    assert "held" not in seen.out
    ended(images)
    status = llm("status", model.workspace)
    assert (status.returncode, "out of memory: raise `llm: {memory: …}`" in status.stdout) == (1, True), status.stdout
    assert llm("down", model.workspace).returncode == 0


def test_a_model_whose_directory_is_gone_is_named(model: Model) -> None:
    llm("down", model.workspace)
    models = model.workspace.parent / "models"
    shutil.rmtree(models)
    done = llm("up", model.workspace)
    assert (done.returncode, f"mkdir -p {models}" in done.stderr) == (2, True)
