"""A real model, sealed: its words through the slot as they come, its key, its end, and a report from it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.llm.state import CONTAINER
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.pinned_wheels import cache
from tests.runner.conftest import Serving, start_serving
from tests.runner.jobs import TOOL, sh
from tests.runner.llm_support import settings
from tests.runner.real_model import FILE, IMAGE, LOCK, real_model

pytestmark = [pytest.mark.docker, pytest.mark.slow]
PROGRAM = [sys.executable, "-m", "cloned_proxy"]
KEY = "s3aled-k3y"
SYNTHESIS = "cloned.internal.synthesis@v1"
INJECTED = 'inject: {header: Authorization, value: "Bearer ${vault:llm.api_key}"}'
RULE = "host: 127.0.0.1, ports: [8080]"
POLICY = f"""version: 1
tools:
  {TOOL}: {{allow: [{{{RULE}, {INJECTED}}}]}}
  {SYNTHESIS}: {{allow: [{{{RULE}, {INJECTED}}}]}}
  keyless@v1: {{allow: [{{{RULE}}}]}}
"""
CHAT = """curl -sS -N {how} -H 'Content-Type: application/json' -d '{body}' http://127.0.0.1:8080/v1/chat/completions"""


@dataclass
class Model:
    workspace: Path
    models: Path
    runner: DockerContainerRunner

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen("http://127.0.0.1:8080/metrics", timeout=10) as answer:
            rows = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in rows}

    def program(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, *words, "--workspace", str(self.workspace)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=110, env={**os.environ, **env}
        )


@pytest.fixture(scope="module")
def model(images: Engine, host_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    real_model(images)
    root = tmp_path_factory.mktemp("real") / "code" / ".cloned"
    root.mkdir(parents=True, mode=0o700)
    models = root.parent / "models"
    models.mkdir()
    shutil.copy(cache(LOCK) / "models" / FILE, models / FILE)
    (root / "policy.yaml").write_text(POLICY)
    # One thread: on a machine that is busy anyway, OpenMP's threads spend their time waiting for each other.
    settings(root, engine="llama.cpp", image=IMAGE, memory="512m", cpus=1.0)
    os.environ["LLM_API_KEY"] = KEY  # of `llm up`, and of `serve`, whose vault it overrides
    serving: Serving | None = None
    try:
        made = Model(root, models, DockerContainerRunner(workspace=root))
        done = made.program("llm", "up", "--wait", "100")
        assert (done.returncode, "sealed with a key" in done.stderr) == (0, True), done.stderr
        serving = start_serving(root)
        yield made
    finally:
        os.environ.pop("LLM_API_KEY")
        made.runner.close()
        if serving is not None:
            serving.stop()
        made.program("llm", "down")


def chat(text: str, *, tokens: int, stream: bool) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream})


def test_its_words_come_through_the_slot_as_they_are_made(model: Model) -> None:
    """Each line is stamped inside the tool, when it arrives there."""
    stamp = 'while read -r line; do echo "$(date +%s%N) $line"; done'
    command = CHAT.format(how="", body=chat("The capital of France is", tokens=24, stream=True))
    seen = sh(model.runner, f"{command} | {stamp}", timeout=100)
    lines = [line.split(" ", 1) for line in seen.out.splitlines() if "data: {" in line]
    events = [json.loads(text.removeprefix("data: ")) for _, text in lines]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert "the capital of France" in text, text  # greedy: alike in every run
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert len({int(at) // 1_000_000 for at, _ in lines}) > 15, "the words came all at once"
    assert "[DONE]" in seen.out


def test_the_key_is_the_proxys_and_a_tool_without_it_gets_401(model: Model) -> None:
    body = chat("Hello", tokens=1, stream=False)
    status = "-o /dev/null -w '%{http_code}'"
    assert sh(model.runner, CHAT.format(how=status, body=body), timeout=60).out == "200"
    assert sh(model.runner, CHAT.format(how=status, body=body), tool="keyless@v1", timeout=60).out == "401"
    assert KEY not in sh(model.runner, "env; cat /proc/*/environ 2>/dev/null").out


def test_a_tool_that_ends_ends_the_generation(model: Model) -> None:
    before = model.metrics()
    command = CHAT.format(how="--max-time 2", body=chat("Once upon a time", tokens=1500, stream=True))
    sh(model.runner, command, timeout=60)
    deadline = time.monotonic() + 30
    while (now := model.metrics())["cancelled_total"] == before["cancelled_total"]:
        assert time.monotonic() < deadline, now
        time.sleep(0.2)
    assert now["llamacpp:requests_processing"] == 0


def test_a_folder_is_summarised_with_no_network_and_a_cut_answer_says_so(model: Model) -> None:
    folder = model.workspace.parent / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("The harbour of Kiel is closed on Monday.\n")
    (folder / ".secret").write_text("hunter2")
    words = {"folder": "notes", "max_tokens": 24}
    done = model.program("run", "pipeline.folder.summary", "--watch", "--input", json.dumps(words))
    assert done.returncode == 0, done.stderr
    assert "finish_reason: length" in done.stderr
    artifact = Path(done.stdout.strip())
    text = artifact.read_text()
    assert "> The model did not come to an end" in text
    assert "UNTRUSTED" not in text
    manifest = json.loads((artifact.parent / "manifest.json").read_text())
    assert (manifest["finish_reason"], manifest["truncated"]) == ("length", True)
    assert (manifest["costs"]["completion_tokens"], manifest["sources"]) == (24, ["notes/a.txt"])
    assert manifest["costs"]["prompt_tokens"] > 50
    assert manifest["costs"]["seconds"] >= manifest["runs"]["synthesis"]["model_seconds"] > 0
    first = text.splitlines()[4].split()[0]
    assert first in done.stderr.partition("2/3 synthesis")[2].partition("2/3 synthesis done")[0], (
        "--watch shows the words"
    )
    asked = [json.loads(line) for line in model.program("log", "--json").stdout.splitlines()]
    runs = {run["run"] for run in manifest["runs"].values()}
    reached = {(row["tool"], row["host"]) for row in asked if row.get("run") in runs and "host" in row}
    assert reached == {(SYNTHESIS, "127.0.0.1")}, "the model and nobody else was asked"
    shown = model.program("run", "show", "--json")
    assert json.loads(shown.stdout)["sha256"] == manifest["sha256"]
    assert artifact.parent.name in model.program("run", "list").stdout


def test_it_fits_and_is_sealed(model: Model, images: Engine) -> None:
    facts = images.inspect(CONTAINER)
    assert facts["HostConfig"]["Memory"] == 512 * 1024 * 1024
    assert not facts["State"]["OOMKilled"]
    pid = facts["State"]["Pid"]
    limits = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^CapBnd:\s+0+$", limits, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", limits, re.MULTILINE)
    assert re.search(r"^Cpus_allowed_list:\s+\d+$", limits, re.MULTILINE), "one CPU, as the quota"
    assert Path(f"/proc/{pid}/net/route").read_text().count("\n") == 1


def test_a_model_file_that_vanishes_and_a_limit_that_is_too_small(model: Model) -> None:
    """The last one of the module: it takes the model down."""
    kept = Path(model.models, FILE)
    kept.unlink()
    status = "-o /dev/null -w '%{http_code}'"
    body = chat("Hello", tokens=1, stream=False)
    assert sh(model.runner, CHAT.format(how=status, body=body), timeout=60).out == "200", "it is mapped"
    assert model.program("llm", "down").returncode == 0
    missing = model.program("llm", "up", "--models", str(model.models))
    assert (missing.returncode, "no .gguf file" in missing.stderr) == (2, True), missing.stderr
    shutil.copy(cache(LOCK) / "models" / FILE, kept)
    settings(model.workspace, engine="llama.cpp", image=IMAGE, memory="48m", cpus=1.0)
    small = model.program("llm", "up", "--models", str(model.models))
    assert (small.returncode, "needs more than its 48 MiB" in small.stderr) == (1, True), small.stderr
    assert model.program("llm", "status").stdout.startswith("container none")
