"""What `serve` knows of sandboxes: runs in the metrics, the canary, the CA for tools whose rules open TLS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.link import is_served
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import StoreError
from tests.runner.conftest import SERVE
from tests.runner.jobs import sh

pytestmark = pytest.mark.docker

POLICY = """\
version: 1
tools:
  demo.tool@v1:
    allow: [{host: inspected.example, paths: ["/**"]}]
  plain.tool@v1:
    allow: [plain.example]
"""


@pytest.fixture(scope="module")
def metrics(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A `serve` with the canary on; its workspace and the address of its metrics."""
    workspace = tmp_path_factory.mktemp("serving") / ".cloned"
    workspace.mkdir(mode=0o700)
    (workspace / "policy.yaml").write_text(POLICY)
    (workspace / "config.yaml").write_text("sandbox: {probe_interval: 3600}\n")
    words = [*SERVE, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--control", "off"]
    words += ["--workspace", str(workspace)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = ""
        while "metrics" not in said:
            said += process.stdout.readline()
        address = re.search(r"http://(\S+)/metrics", said)
        assert address is not None
        while not is_served(workspace):
            time.sleep(0.05)
        yield workspace, f"http://{address[1]}/metrics"
        process.terminate()


def _read(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def test_runs_and_their_results_are_counted(metrics: tuple[Path, str]) -> None:
    workspace, url = metrics
    with DockerContainerRunner(workspace=workspace) as runner:
        sh(runner, "true")
        sh(runner, "false")
        sh(runner, "true", tool="nobody.knows@v1")
    text = _read(url)
    assert 'cloned_proxy_sandbox_runs_total{result="ok",tool="demo.tool@v1"} 1.0' in text
    assert 'cloned_proxy_sandbox_runs_total{result="failed",tool="demo.tool@v1"} 1.0' in text
    assert 'cloned_proxy_sandbox_runs_total{result="ok",tool="_unknown"} 1.0' in text
    assert "cloned_proxy_sandbox_start_duration_seconds_count 3.0" in text


def test_the_canary_says_that_this_machine_is_sealed(metrics: tuple[Path, str]) -> None:
    deadline = time.monotonic() + 60
    while "cloned_proxy_isolation_probe_success" not in (text := _read(metrics[1])):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "cloned_proxy_isolation_probe_success 1.0" in text
    with AuditLog(metrics[0] / "state.db") as audit:
        while not (found := [entry.body for entry in audit.entries(types=("probe",))]):
            assert time.monotonic() < deadline
            time.sleep(0.02)  # on disk within 50 ms, which is behind the metric
    (probe,) = found
    assert (probe["sealed"], probe["failures"]) == (True, [])
    assert probe["attempts"] > probe["controls"] > 0


def test_a_canary_that_cannot_probe_says_so(tmp_path: Path) -> None:
    env = os.environ | {"DOCKER_HOST": "unix:///nowhere/engine.sock"}
    workspace = tmp_path / ".cloned"
    workspace.mkdir(mode=0o700)
    (workspace / "policy.yaml").write_text(POLICY)
    (workspace / "config.yaml").write_text("sandbox: {probe_interval: 3600}\n")
    words = [*SERVE, "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off", "--workspace", str(workspace)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as process:
        deadline = time.monotonic() + 60
        found: list[dict[str, Any]] = []
        while not found:
            assert process.poll() is None, "the proxy has ended"
            assert time.monotonic() < deadline
            time.sleep(0.2)
            with contextlib.suppress(StoreError), AuditLog(workspace / "state.db") as audit:
                found = [entry.body for entry in audit.entries(types=("probe",))]
        process.terminate()
    assert (found[0]["sealed"], found[0]["attempts"]) == (False, 0)
    assert "no container engine answers" in found[0]["failures"][0]


def test_a_tool_whose_rules_open_tls_trusts_the_workspaces_ca(metrics: tuple[Path, str]) -> None:
    with DockerContainerRunner(workspace=metrics[0]) as runner:
        script = 'grep -c BEGIN "$SSL_CERT_FILE"; echo x > "$SSL_CERT_FILE"; env | grep -c cloned-ca'
        seen = sh(runner, script)
        roots, names = (int(word) for word in seen.out.split())
        assert roots > 50
        assert names >= 6
        assert "Permission denied" in seen.err
        assert sh(runner, "env | grep -c cloned-ca", tool="plain.tool@v1").out == "0\n"


def test_doctor_names_engine_seccomp_variant_and_images(images: Engine, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "doctor", "--json"]
    done = subprocess.run([*program, "--workspace", str(tmp_path)], capture_output=True, check=False)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {"engine", "storage", "seccomp", "user ns", "slots", "image"} <= found.keys()
    assert found["seccomp"]["status"] == "ok"
    assert found["engine"]["detail"].startswith(("Docker ", "Podman "))
    version = re.match(r"(\d+)\.", found["node"]["detail"])
    assert version is not None
    assert found["node"]["status"] == ("ok" if int(version[1]) >= 24 else "warn")
    assert not any(name.startswith("cloned_node_") for name in images.names())


def test_doctor_without_an_engine_warns_and_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/engine.sock")
    program = [sys.executable, "-m", "cloned_proxy", "doctor", "--json"]
    done = subprocess.run([*program, "--workspace", str(tmp_path)], capture_output=True, check=False)
    (engine,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "engine"]
    assert (engine["status"], "install it" in engine["fix"]) == ("warn", True)
