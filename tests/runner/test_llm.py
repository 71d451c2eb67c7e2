"""The local model: the Compose file to the letter, and the sealed variant end to end (with a stand-in for LocalAI)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.llm import CONTAINER, model_container
from cloned_proxy.runner.runner import DockerContainerRunner
from cloned_proxy.runner.worker import PYTHON_IMAGE
from cloned_proxy.share import share_path
from tests.runner.conftest import leftovers, start_serving
from tests.runner.jobs import TOOL, sh

docker = pytest.mark.docker
COMPOSE = share_path("compose", "compose.local-llm.yaml")
SERVICE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["localai"]
STAND_IN = "cloned-localai-stand-in:latest"
PROGRAM = [sys.executable, "-m", "cloned_proxy", "llm"]

HARDENING: list[tuple[str, Any]] = [
    ("container_name", "cloned-localai"),
    ("ports", ["127.0.0.1:8080:8080"]),
    ("user", "${LOCALAI_UID:-65532}:${LOCALAI_GID:-65532}"),
    ("read_only", True),
    ("security_opt", ["no-new-privileges:true"]),
    ("cap_drop", ["ALL"]),
    ("pids_limit", 256),
    ("mem_limit", "8g"),
    ("cpus", "${LOCALAI_CPUS:-4}"),
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


def test_the_sealed_container_is_as_hard_and_has_no_network() -> None:
    container = model_container("image", "f" * 64, Path("/m"), "{}", {"LOCALAI_UID": "1000", "LOCALAI_GID": "1000"})
    host = container["HostConfig"]
    assert container["User"] == "1000:1000"
    assert host["NetworkMode"] == "container:" + "f" * 64
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["PidsLimit"]) == (True, ["ALL"], 256)
    assert host["Memory"] == host["MemorySwap"] == 8 * 1024**3
    assert "PortBindings" not in host
    assert host["Mounts"][0]["ReadOnly"]


@pytest.fixture(scope="module")
def stand_in(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stand-in")
    shutil.copy(Path(__file__).with_name("localai_stand_in.py"), folder / "stand_in.py")
    (folder / "Dockerfile").write_text(
        f'FROM {PYTHON_IMAGE} AS stand-in\nUSER 0:0\nCOPY stand_in.py /stand_in.py\nCMD ["python3", "/stand_in.py"]\n'
    )
    images.build(str(folder), target="stand-in", tag=STAND_IN, args={}, labels={"stand-in": "true"})
    return STAND_IN


@pytest.fixture
def workspace(tmp_path: Path, images: Engine) -> Iterator[Path]:
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
    assert not [row for row in images.names() if row.startswith("cloned_slot_")]


def llm(action: str, workspace: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, action, "--workspace", str(workspace), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **env})


CHAT = (
    "curl -sS {how} -H 'Content-Type: application/json' "
    '-d \'{{"messages":[{{"role":"user","content":"hello"}}]}}\' $LLM_API_BASE/chat/completions'
)


@docker
def test_the_sealed_model_answers_on_the_host_and_in_a_tool_that_may(workspace: Path, stand_in: str) -> None:
    done = llm("up", workspace, LOCALAI_IMAGE=stand_in)
    assert (done.returncode, done.stdout) == (0, "LLM_API_BASE=http://localhost:8080/v1\n"), done.stderr
    status = json.loads(llm("status", workspace, "--json").stdout)
    assert status == {"container": True, "relay": True, "healthy": True, "base": "http://localhost:8080/v1"}
    serving = start_serving(workspace)
    try:
        env = {"LLM_API_BASE": "http://localhost:8080/v1"}
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


@docker
def test_older_images_know_health_only(workspace: Path, images: Engine, stand_in: str, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f'FROM {stand_in} AS old\nCMD ["python3", "/stand_in.py", "/health"]\n')
    images.build(str(folder), target="old", tag="cloned-localai-old:latest", args={}, labels={})
    assert llm("up", workspace, LOCALAI_IMAGE="cloned-localai-old:latest").returncode == 0


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


@docker
@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose")
def test_the_four_checks_of_the_compose_variant_pass_as_written(stand_in: str, images: Engine, tmp_path: Path) -> None:
    compose = tmp_path / "compose.local-llm.yaml"
    shutil.copy(COMPOSE, compose)
    for name in ("models", "backends"):
        (tmp_path / name).mkdir()
    env = {**os.environ, "LOCALAI_IMAGE": stand_in, "LOCALAI_CPUS": "1"}
    base = ["docker-compose", "--file", str(compose), "--project-name", "cloned-test"]
    try:
        subprocess.run([*base, "up", "--detach"], check=True, env=env, capture_output=True, text=True, timeout=60)

        def asked(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=30)

        bindings = asked("inspect", CONTAINER, "--format", "{{.HostConfig.PortBindings}}").stdout.strip()
        assert bindings == "map[8080/tcp:[{127.0.0.1 8080}]]"
        assert asked("exec", CONTAINER, "id", "-u").stdout.strip() == "65532"
        assert asked("exec", CONTAINER, "touch", "/tmp/x").returncode == 0
        assert asked("exec", CONTAINER, "touch", "/etc/x").returncode != 0
        host = images.inspect(CONTAINER)["HostConfig"]
        assert (host["Memory"], host["PidsLimit"], host["CapDrop"]) == (8 * 1024**3, 256, ["ALL"])
    finally:
        subprocess.run([*base, "down", "--timeout", "1"], check=False, env=env, capture_output=True, timeout=60)
