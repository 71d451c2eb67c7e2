"""The local model: the Compose file to the letter, and the sealed variant end to end (with a stand-in for LocalAI)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.llm.state import CONTAINER, read_state
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.share import share_path
from tests.cli.program import eventually
from tests.runner.conftest import leftovers, start_serving
from tests.runner.jobs import TOOL, sh
from tests.runner.llm_support import STAND_IN, build_stand_in, llm, settings

docker = pytest.mark.docker
COMPOSE = share_path("compose", "compose.local-llm.yaml")
SERVICE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["localai"]

HARDENING: list[tuple[str, Any]] = [
    ("container_name", "cloned-localai"),
    ("ports", ["127.0.0.1:8080:8080"]),
    ("user", "${LOCALAI_UID:-65532}:${LOCALAI_GID:-65532}"),
    ("read_only", True),
    ("security_opt", ["no-new-privileges:true"]),
    ("cap_drop", ["ALL"]),
    ("pids_limit", 256),
    ("mem_limit", "8g"),
    ("cpu_quota", 400_000),
    ("cpu_period", 100_000),
    ("dns", ["127.0.0.1"]),
    ("networks", ["sealed"]),
]


@pytest.mark.parametrize(("knob", "value"), HARDENING)
def test_the_compose_file_is_hardened_to_the_letter(knob: str, value: Any) -> None:
    assert SERVICE[knob] == value


def test_the_compose_file_has_tmp_models_proxies_health_and_a_network_that_leads_nowhere() -> None:
    assert "/tmp:rw,noexec,nosuid" in SERVICE["tmpfs"]
    assert "./models:/models" in SERVICE["volumes"]
    assert {"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} <= SERVICE["environment"].keys()
    check = SERVICE["healthcheck"]["test"][1]
    assert check.index("/readyz") < check.index("/health")
    network = yaml.safe_load(COMPOSE.read_text())["networks"]["sealed"]
    assert network["enable_ipv6"] is False
    assert network["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


@pytest.fixture(scope="module")
def stand_in(images: Engine) -> str:
    return build_stand_in(images)


@pytest.fixture
def workspace(tmp_path: Path, images: Engine, host_port: int) -> Iterator[Path]:
    root = tmp_path / "code" / ".cloned"
    root.mkdir(parents=True, mode=0o700)
    (root.parent / "models").mkdir()
    (root / "policy.yaml").write_text(
        "version: 1\ntools:\n"
        f"  {TOOL}:\n    allow:\n"
        "      - {host: 127.0.0.1, ports: [8080]}\n"
        "      - {host: localhost, ports: [8080], addresses: [private]}\n"
    )
    yield root
    llm("down", root)
    assert images.find(CONTAINER) is None
    assert leftovers(images, root) == []


CHAT = (
    "curl -sS {how} -H 'Content-Type: application/json' "
    '-d \'{{"messages":[{{"role":"user","content":"hello"}}]}}\' $LLM_API_BASE/chat/completions'
)


@docker
def test_the_sealed_model_answers_on_the_host_and_in_a_tool_that_may(workspace: Path, stand_in: str) -> None:
    done = llm("up", workspace, LOCALAI_IMAGE=stand_in)
    assert (done.returncode, done.stdout) == (0, "LLM_API_BASE=http://127.0.0.1:8080/v1\n"), done.stderr
    status = json.loads(llm("status", workspace, "--json").stdout)
    assert (status["container"], status["relay"], status["healthy"]) == (True, True, True)
    assert (status["base"], status["engine"], status["key"]) == ("http://127.0.0.1:8080/v1", "localai", False)
    assert status["workspace"] == str(workspace)
    serving = start_serving(workspace)
    try:
        env = {"LLM_API_BASE": done.stdout.strip().partition("=")[2]}
        on_host = subprocess.run(
            ["sh", "-c", CHAT.format(how="--noproxy '*'")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **env},
        )
        assert "hello" in on_host.stdout
        with DockerContainerRunner(workspace=workspace) as runner:
            for how in ("", "--noproxy '*'"):  # by the proxy, and by the slot's own port
                assert "hello" in sh(runner, CHAT.format(how=how), env=env).out, how
            for how in ("", "--noproxy '*'"):
                refused = sh(runner, CHAT.format(how=how), env=env, tool="other.tool@v1").out
                assert "egress_denied" in refused, how
    finally:
        serving.stop()
    assert llm("down", workspace).returncode == 0
    assert llm("status", workspace).returncode == 1
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", 8080)) != 0


@docker
def test_the_model_has_no_way_out(workspace: Path, stand_in: str, images: Engine) -> None:
    assert llm("up", workspace, LOCALAI_IMAGE=stand_in).returncode == 0
    facts = images.inspect(CONTAINER)
    assert not facts["HostConfig"]["PortBindings"]
    pid = facts["State"]["Pid"]
    assert Path(f"/proc/{pid}/net/route").read_text().count("\n") == 1
    interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces if not line.split(":")[0].strip().startswith("sit")] == [
        "lo"
    ]


def inside() -> dict[str, str]:
    """The model's own environment, by way of the relay."""
    with urllib.request.urlopen("http://127.0.0.1:8080/environment", timeout=10) as answer:
        found: dict[str, str] = json.load(answer)
        return found


ENGINES = [
    ("localai", "/nothing", "LOCALAI_THREADS"),  # as llama-cpp-python: its list of models is all it has
    ("llama.cpp", "/health", "LLAMA_ARG_THREADS"),
    ("ollama", "/", "OMP_NUM_THREADS"),
    ("vllm", "/health", "OMP_NUM_THREADS"),
]


@docker
@pytest.mark.parametrize(("kind", "health", "threads"), ENGINES)
def test_each_engine_is_told_where_to_listen_and_how_many_threads_to_start(
    workspace: Path, stand_in: str, kind: str, health: str, threads: str
) -> None:
    (workspace.parent / "models" / "m.gguf").touch()
    settings(workspace, engine=kind, image=stand_in, cpus=1.0, memory="1g", env={"STAND_IN_HEALTH": health})
    done = llm("up", workspace)
    assert done.returncode == 0, done.stderr
    found = inside()
    assert (found[threads], found["OMP_NUM_THREADS"], found["affinity"]) == ("1", "1", "1")
    assert (found["USER"], found["NO_PROXY"]) == ("tool", "localhost,127.0.0.1,::1")


URLLIB = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).status, end='')"


@docker
def test_an_engine_reaches_itself_on_loopback(workspace: Path, stand_in: str) -> None:
    """Some warm up by their own port, with clients that obey the proxy variables; the control is without `NO_PROXY`."""
    (workspace.parent / "models" / "m.gguf").touch()
    settings(workspace, image=stand_in)
    assert llm("up", workspace).returncode == 0
    for host in ("127.0.0.1", "localhost"):
        place = f"http://{host}:8080/environment"
        curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", place]
        for client in (curl, ["python3", "-c", URLLIB, place]):
            said = subprocess.run(["docker", "exec", CONTAINER, *client], capture_output=True, check=False, timeout=60)
            assert said.stdout == b"200", said.stderr
            bare = ["docker", "exec", CONTAINER, "env", "-u", "NO_PROXY", "-u", "no_proxy", *client]
            assert subprocess.run(bare, capture_output=True, check=False, timeout=60).returncode != 0


@docker
def test_a_model_that_loads_is_waited_for_and_one_that_takes_too_long_goes_on(workspace: Path, stand_in: str) -> None:
    loaded = workspace.parent / "models" / "loaded"
    env = {"STAND_IN_LOADED_WITH": "/models/loaded", "STAND_IN_HEALTH": "/ready"}
    settings(workspace, image=stand_in, env=env, health="/ready")
    late = llm("up", workspace, "--wait", "0.5")
    assert late.returncode == 1, late.stderr
    assert all(
        word in late.stderr for word in ("goes on loading", "llm status", f"docker logs {CONTAINER}", "llm down")
    )
    eventually(lambda: "not ready: /ready 503" in llm("status", workspace).stdout, what="its first word")
    assert llm("status", workspace).returncode == 1
    again = llm("up", workspace)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert llm("down", workspace).returncode == 0
    words = [sys.executable, "-m", "cloned_proxy", "llm", "up", "--workspace", str(workspace)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as coming:
        assert coming.stderr is not None
        said = []
        for line in coming.stderr:
            said.append(line)
            if "loading (/ready 503)" in line:
                loaded.touch()
    assert (coming.returncode, loaded.exists()) == (0, True), said


KEYS: list[tuple[str, dict[str, str], int, str]] = [
    ("asked for", {}, 0, "sealed with a key"),
    ("ignored", {"STAND_IN_NO_KEY": "1"}, 1, "answers without it (/v1/chat/completions 400)"),
    ("another", {"LOCALAI_API_KEY": "other"}, 1, "refuses the key that it was given"),
]


@docker
@pytest.mark.parametrize(("env", "code", "message"), [row[1:] for row in KEYS], ids=[row[0] for row in KEYS])
def test_a_key_is_proven_before_it_is_spoken_of(
    workspace: Path, stand_in: str, env: dict[str, str], code: int, message: str
) -> None:
    settings(workspace, image=stand_in, env=env)
    done = llm("up", workspace, LLM_API_KEY="k3y")
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    if code == 0:
        assert json.loads(llm("status", workspace, "--json").stdout)["key"] is True
    else:
        assert read_state(workspace) is None


@docker
def test_another_workspaces_model_is_left_alone_and_named(workspace: Path, stand_in: str, tmp_path: Path) -> None:
    assert llm("up", workspace, LOCALAI_IMAGE=stand_in).returncode == 0
    other = tmp_path / "other" / ".cloned"
    (other.parent / "models").mkdir(parents=True)
    for action in ("down", "up"):
        refused = llm(action, other, LOCALAI_IMAGE=stand_in)
        assert (refused.returncode, f"llm down --workspace {workspace}" in refused.stderr) == (1, True), refused.stderr
    status = llm("status", other).stdout
    assert f"llm down --workspace {workspace}`" in status, status
    assert "llm up" not in status, "a command that would be refused"
    assert inside()
    shutil.rmtree(workspace / "run")  # what `up` wrote is lost: the container itself says whose it is
    assert llm("down", workspace).returncode == 0


@docker
def test_the_relay_ends_with_its_model(workspace: Path, stand_in: str, images: Engine) -> None:
    assert llm("up", workspace, LOCALAI_IMAGE=stand_in).returncode == 0
    state = read_state(workspace)
    assert state is not None
    images.remove(CONTAINER)
    deadline = time.monotonic() + 60
    while state.relay_alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = llm("status", workspace)
    assert (done.returncode, "relay     none" in done.stdout) == (1, True)


@docker
def test_one_that_ended_is_said_to_have_and_started_anew(workspace: Path, stand_in: str, images: Engine) -> None:
    assert llm("up", workspace, LOCALAI_IMAGE=stand_in).returncode == 0
    first = images.state(CONTAINER).id
    images.kill(CONTAINER)
    images.wait(CONTAINER, 60)
    status = llm("status", workspace)
    assert (status.returncode, "container ended" in status.stdout) == (1, True), status.stdout
    assert ("llm up" in status.stdout, "llm down" in status.stdout) == (True, False), status.stdout
    again = llm("up", workspace, LOCALAI_IMAGE=stand_in)
    assert again.returncode == 0, again.stderr
    assert images.state(CONTAINER).id != first
    assert llm("status", workspace).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to be nobody")
def test_who_cannot_have_one_is_told_first(tmp_path: Path) -> None:
    """Before the directory of models, the image, or anything else that would have to be put right."""
    nobody = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    command = [*nobody, sys.executable, "-m", "cloned_proxy", "llm", "up", "--workspace", str(tmp_path / ".cloned")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "run as root" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / ".cloned").exists()


FAULTS: list[tuple[str, list[str], dict[str, str], str]] = [
    ("no image", [], {"LOCALAI_IMAGE": "nothing.example/localai:1"}, "docker pull nothing.example/localai:1"),
    ("no models", ["--models", "/nowhere"], {"LOCALAI_IMAGE": STAND_IN}, "mkdir -p /nowhere"),
    ("a model that ends at once", [], {"LOCALAI_IMAGE": PYTHON_IMAGE}, "ended with"),
]


@docker
@pytest.mark.parametrize(("words", "env", "message"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_what_keeps_it_from_starting_is_named_and_cleaned_up(
    workspace: Path, stand_in: str, words: list[str], env: dict[str, str], message: str
) -> None:
    done = llm("up", workspace, *words, **env)
    assert (done.returncode in (1, 2), message in done.stderr) == (True, True), done


@docker
def test_a_taken_port_is_named(workspace: Path, stand_in: str) -> None:
    with socket.create_server(("127.0.0.1", 8080)):
        done = llm("up", workspace, LOCALAI_IMAGE=stand_in)
    assert (done.returncode, "127.0.0.1:8080 is taken" in done.stderr) == (1, True)
