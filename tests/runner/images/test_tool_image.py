"""An image with real packages of npm and PyPI baked in: their servers answer in a container that may reach nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images import npm_client
from cloned_proxy.runner.images.image_list import built_images
from cloned_proxy.runner.images.tool_image import LOCK_LABEL, build_tool_image
from cloned_proxy.runner.images.tool_packages import ToolImage
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import FetchError
from tests.runner.conftest import Serving
from tests.runner.local_registry import local_registry

pytestmark = pytest.mark.docker

MEMORY, MEMORY_VERSION = "@modelcontextprotocol/server-memory", "2026.8.31"
TIME, TIME_VERSION = "mcp-server-time", "2026.10.19"
WANTED = ToolImage(npm=(f"{MEMORY}@{MEMORY_VERSION}",), pypi=(f"{TIME}=={TIME_VERSION}",))
HELLO = [
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
]


@pytest.fixture(scope="module")
def image(images: Engine) -> str:
    try:
        return build_tool_image(images, WANTED, print)
    except FetchError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has no packages: {error}")
        pytest.skip(f"no packages: {error}")


@pytest.fixture
def workspace(module_serving: Serving) -> Path:
    return module_serving.workspace


def tools_of(workspace: Path, image: str, *command: str) -> list[str]:
    """The names of a server's tools, asked over its standard streams by a tool that no rule allows anything."""
    words = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", str(workspace), "--image", image]
    with subprocess.Popen(
        [*words, "nothing.allowed@v1", "--", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in HELLO:
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()
        assert process.wait(60) == 0
    return [tool["name"] for tool in answers[1]["result"]["tools"]]


@pytest.mark.parametrize(
    ("command", "tool"),
    [
        (("npx", "-y", MEMORY), "create_entities"),
        (("uvx", f"{TIME}=={TIME_VERSION}"), "get_current_time"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_baked_server_answers_without_any_registry(
    workspace: Path, image: str, command: tuple[str, ...], tool: str
) -> None:
    assert tool in tools_of(workspace, image, *command)


def test_what_is_baked_of_pypi_is_compiled_so_that_no_start_has_to_do_it(image: str) -> None:
    python = f"/opt/uv-tools/{TIME}/bin/python"
    command = ["docker", "run", "--rm", "--network", "none", image, python, "-v", "-c", "import mcp_server_time"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr.splitlines()
    loaded = [line for line in told if line.startswith("# code object from ") and "/opt/uv-tools/" in line]
    assert len(loaded) > 100
    assert [line for line in loaded if not line.endswith(".pyc'")] == []


def test_what_is_not_baked_in_is_npxs_and_uvxs_own_business(image: str) -> None:
    command = ["docker", "run", "--rm", "--network", "none", image, "sh", "-c", "npx --version; uvx --version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    npx, uvx = done.stdout.splitlines()
    assert (npx.count("."), uvx.startswith("uv")) == (2, True)


def test_what_was_resolved_is_in_a_label_with_a_hash_for_each_and_no_host(images: Engine, image: str) -> None:
    lock = json.loads(images.image(image)["Config"]["Labels"][LOCK_LABEL])
    assert f"mcp_server_time=={TIME_VERSION} --hash=sha256:" in lock["pypi"]
    assert all("==" in line and " --hash=sha256:" in line for line in lock["pypi"].splitlines())
    assert lock["npm"]["packages"][f"node_modules/{MEMORY}"]["integrity"].startswith("sha512-")
    hosts = [entry["resolved"] for entry in lock["npm"]["packages"].values() if "resolved" in entry]
    assert (hosts, "://" in lock["pypi"]) == ([], False)


def test_the_same_words_make_the_same_image_from_its_lock(
    images: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ToolImage(npm=("hello-home@1.0.0",), pypi=("hello-home==1.0",), tag="cloned-tool-test-lock")
    said: list[str] = []
    with local_registry() as registry:
        monkeypatch.setenv("npm_config_registry", registry.npm)
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_INDEX_URL", registry.simple)
        made = [images.image(build_tool_image(images, wanted, said.append)) for _ in range(2)]
        unchanged = said[-1]
        monkeypatch.setattr(
            "cloned_proxy.runner.images.tool_image._is_current", lambda *_: False
        )  # as on another worker
        made.append(images.image(build_tool_image(images, wanted, said.append)))
    images.remove_image(wanted.name)
    assert (unchanged.startswith(f"{wanted.name} is there, unchanged"), made[0]["Id"]) == (True, made[1]["Id"])
    assert [line.partition(":")[0] for line in said if "its lock says which versions" in line] == [
        "cloned-tool-test-lock"
    ]
    assert made[0]["Config"]["Labels"] == made[2]["Config"]["Labels"]
    left = subprocess.run(
        ["docker", "images", "--quiet", "--filter", f"label=cloned.stage={wanted.name}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert left.stdout == ""


def test_it_is_listed_with_its_size_node_and_packages(images: Engine, image: str) -> None:
    listed = {found.name: found for found in built_images(images)}
    worker, tool = listed[PYTHON_IMAGE], listed[image]
    assert tool.packages == (f"npm:{MEMORY}@{MEMORY_VERSION}", f"pypi:{TIME}=={TIME_VERSION}")
    assert (tool.node, tool.current, tool.locked > 50, tool.size > worker.size) == (worker.node, True, True, True)


def test_a_tarball_that_is_not_what_the_lock_says_is_not_taken(image: str, tmp_path: Path) -> None:
    lock = npm_client.fetch(tmp_path / "good", {"is-number": "7.0.0"}, None)
    lock["packages"]["node_modules/is-number"]["integrity"] = f"sha512-{'A' * 86}=="
    with pytest.raises(FetchError, match="EINTEGRITY"):
        npm_client.fetch(tmp_path / "bad", {"is-number": "7.0.0"}, lock)


def test_without_an_npm_of_this_machine_the_pinned_one_fetches(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloned_proxy.runner.images.npm_client.shutil.which", lambda _: None)
    npm_client.fetch(tmp_path / "project", {"is-number": "7.0.0"}, None)
    assert (tmp_path / "project" / "node_modules" / "is-number" / "index.js").is_file()


def test_install_scripts_run_in_the_build_alone_as_nobody_without_a_network_and_only_if_asked_for(
    images: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    canary = tmp_path / "on-this-machine"
    found = "require('fs').readFileSync('/proc/net/dev', 'utf8').split('\\n').filter(line => line.includes(':')).length"
    program = f"require('fs').writeFileSync('ran.txt', process.getuid() + ' ' + {found})"
    script = f'touch {canary}; node -e "{program}"'
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with local_registry(install_script=script) as registry:
        monkeypatch.setenv("npm_config_registry", registry.npm)
        names = {
            scripts: build_tool_image(images, ToolImage(npm=("hello-home@1.0.0",), scripts=scripts), print)
            for scripts in (False, True)
        }
    ran = {}
    for scripts, name in names.items():
        command = ["docker", "run", "--rm", "--network", "none", name]
        look = "hello-home; npx hello-home; cat /usr/local/lib/node_modules/hello-home/ran.txt"
        ran[scripts] = subprocess.run(
            [*command, "sh", "-c", look], capture_output=True, text=True, check=False, timeout=60
        ).stdout.splitlines()
        images.remove_image(name)
    assert ran == {False: ["hello from node"] * 2, True: ["hello from node", "hello from node", "65532 1"]}
    assert not canary.exists()
