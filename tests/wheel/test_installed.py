"""What is installed is the wheel: file by file, every module, every command, with what the wheel asks for alone."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import pytest

import cloned_proxy
from cloned_proxy.proxy.plane import library
from cloned_proxy.share import share_path
from tests.cli.program import TOOL, Origin, Serving, Workspace, literal, policy_text

ASSETS: Final = ("addons", "config", "dashboards", "compose", "sandbox")
OF_EXTRAS: Final = {"redis", "jwt", "securesystemslib", "google", "opentelemetry"}
"""What only the extras `fleet` and `otlp` install; their modules are imported when the settings ask for them."""
EVERY_MODULE: Final = """
import importlib, json, pkgutil, cloned_proxy
missing = {}
for module in pkgutil.walk_packages(cloned_proxy.__path__, "cloned_proxy."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps(missing))
"""


def installed_from(python: Path) -> Path:
    """The folder of packages that an interpreter has the program in."""
    words: list[str | Path] = [python, "-I", "-c", "import cloned_proxy; print(cloned_proxy.__path__[0])"]
    return Path(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()).parent


@pytest.mark.parametrize("where", ["the tests' environment", "the bare one"])
def test_each_installed_file_is_the_wheels(where: str, bare: Path, wheel: Path) -> None:
    root = installed_from(bare / "python" if where == "the bare one" else Path(sys.executable))
    assert root.name == "site-packages"
    record = next(root.glob("cloned_proxy-*.dist-info/RECORD"))
    checked = set()
    for name, digest, _ in csv.reader(record.read_text(encoding="utf-8").splitlines()):
        if digest and not name.startswith(".."):
            found = hashlib.sha256((root / name).read_bytes()).digest()
            assert digest == "sha256=" + base64.urlsafe_b64encode(found).rstrip(b"=").decode(), name
            checked.add(name)
    listed = {path.relative_to(root).as_posix() for path in (root / "cloned_proxy").rglob("*") if path.is_file()}
    assert {name for name in listed if "__pycache__" not in name} == {n for n in checked if ".dist-info/" not in n}
    assert wheel.name.startswith(record.parent.name.removesuffix(".dist-info"))


def test_the_tests_import_the_wheel_and_no_checkout() -> None:
    assert Path(cloned_proxy.__file__).is_relative_to(sys.prefix)
    for name in ASSETS:
        assert share_path(name).is_relative_to(sys.prefix), name
    assert (Path(cloned_proxy.__file__).with_name("py.typed")).is_file()
    assert importlib.metadata.version("cloned-proxy") == cloned_proxy.__version__


def test_every_module_is_imported_with_what_the_wheel_requires(bare: Path) -> None:
    done = subprocess.run(
        [bare / "python", "-I", "-c", EVERY_MODULE], capture_output=True, text=True, check=True, timeout=120
    )
    missing: dict[str, str] = json.loads(done.stdout)
    assert {name: what for name, what in missing.items() if what.partition(".")[0] not in OF_EXTRAS} == {}
    assert "cloned_proxy.fleet.link.link" in missing, "the bare environment has an extra"
    assert not (installed_from(bare / "python") / "mitmproxy").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bare: Path) -> Iterator[Workspace]:
    root = tmp_path_factory.mktemp("bare")
    environment = {
        "PATH": f"{bare}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(root),
        "XDG_RUNTIME_DIR": str(root),
        "CLONED_WORKSPACE": str(root / "ws"),
        "DOCKER_HOST": f"unix://{root}/no-engine.sock",
    }
    found = Workspace(root / "ws", environment, program=bare / "cloned-proxy")
    found.write_policy(policy_text())
    yield found
    found.close()


COMMANDS: Final[dict[str, tuple[int | None, str]]] = {
    "--version": (0, r"cloned-proxy \d+\.\d+\.\d+\n"),
    "--help": (0, "The egress firewall"),
    "init --help": (0, "claude-code"),
    "allow api.example.com": (0, r"done: allow api\.example\.com"),
    "deny b.example.com": (0, r"done: deny b\.example\.com"),
    "remove c.example.com": (1, "c.example.com"),
    "list": (0, r"127\.0\.0\.1|api\.example\.com|no rule"),
    "explain https://never.example/": (1, "host_not_allowed"),
    "log": (0, "proxy_started|edit|serve|policy"),
    "status": (0, "native"),
    "proxy": (0, "http://127.0.0.1:"),
    f"token {TOOL}": (0, "HTTP_PROXY=http://demo"),
    "pair": (0, r"[0-9A-Z]{5}-[0-9A-Z]{5}"),
    "doctor --json": (None, '"native: 1 thread"'),
    "ca path": (0, r"\.pem"),
    "setup git": (0, r"proxy"),
    "connect never.example 22": (1, "host_not_allowed|no route|connect"),
    "approvals list": (0, ""),
    "audit verify": (0, "the chain holds"),
    "policy check": (0, "version"),
    "preset show anthropic": (0, r"api\.anthropic\.com"),
    "vault list": (0, "vault is empty"),
    "devices": (0, "no device"),
    "home list": (0, "no home"),
    "mcp list": (0, "NAME"),
    "run list": (0, r"pipeline\.folder\.summary"),
    "image list": (1, "no container engine answers"),
    "llm status": (1, "no container engine answers"),
    "verify": (1, "no container engine answers"),
    f"exec {TOOL} --project none -- true": (1, "no container engine answers"),
    f"shell {TOOL}": (2, "needs a terminal"),
    "fleet status": (2, r"pip install 'cloned-proxy\[fleet\]'"),
}
"""A real start of each command, or one of its group: exit code (None: the machine decides), and what is said."""


@pytest.fixture(scope="module")
def serving(place: Workspace) -> Serving:
    """`serve` as the bare environment has it, on the native plane."""
    return place.serve("--plane", "require", "--control", "127.0.0.1:0")


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.usefixtures("serving")
def test_each_command_starts(words: str, place: Workspace) -> None:
    code, said = COMMANDS[words]
    done = place.run(*words.split())
    assert code in (None, done.returncode), done.stderr
    assert re.search(said, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_no_command_is_left_out(place: Workspace) -> None:
    listed = re.findall(r"^  ([a-z]+)  ", place.run("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert set(listed) - {"serve"} == {words.split()[0] for words in COMMANDS if not words.startswith("-")}


def test_what_is_allowed_is_served_by_the_wheels_plane_and_the_rest_is_not(
    place: Workspace, serving: Serving, origin: Origin
) -> None:
    assert serving.get(origin.url()).reason is not None
    assert origin.seen == []
    place.write_policy(policy_text(allow=[literal(origin)]))
    place.run("policy", "check")
    answers = (serving.get(origin.url("/allowed")).status for _ in range(600))
    assert any(status == 200 for status in answers)
    assert origin.seen[-1][1] == "/allowed"
    assert library.find() is not None


def test_the_control_page_and_its_scripts_are_there(serving: Serving) -> None:
    control = replace(serving, port=serving.control_port)
    assert control.get("/").headers["location"] == "/pair"
    page = control.get("/pair")
    assert page.status == 200
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.body)
    assert "pair.js" in str(parts)
    for name in parts:
        assert control.get(urljoin("/pair", name)).status == 200, name
