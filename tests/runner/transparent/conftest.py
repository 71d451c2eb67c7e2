"""Slots that answer for names, in the fake internet: the proxy runs there, the tools in real containers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.namespaces import names
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.spec import Mount
from tests.net.content import add_python_package, add_repository
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import World
from tests.runner.conftest import leftovers
from tests.runner.jobs import TOOL, run

INSIDE: Final = Path(__file__).with_name("inside.py")
PACKAGES: Final = Path(pytest.__file__).parents[1]
"""requests, httpx, aiohttp and websockets, as these tests have them: the worker has the same Python."""
OTHER: Final = "other.tool@v1"
POLICY: Final = f"""
version: 1
anonymous: deny
tools:
  {TOOL}:
    inherit_global: false
    allow:
      - {{host: other.example.com, ports: [80, 443, 8080, 8443]}}
      - {{host: alpha.example.com, ports: [443]}}
      - files.example.com
      - {{host: inspected.example.com, methods: [GET]}}
      - {{host: shell.example.com, ports: [22], protocols: [tcp]}}
      - {{host: ssh.example.com, ports: [22], protocols: [ssh]}}
      - {{host: private.example.com}}
      - "*.wild.example.org"
  {OTHER}: {{inherit_global: false}}
"""


@dataclass(frozen=True)
class Said:
    """What a program in the slot printed, its exit code, and how long it took in seconds."""

    code: int
    out: str
    seconds: float


@dataclass
class Slots:
    """One way to make slots, in the fake internet."""

    way: str
    world: World
    proxy: ProxyProcess
    runner: DockerContainerRunner

    def together(
        self, commands: Mapping[str, Sequence[str]], tool: str = TOOL, *, proxied: bool = False
    ) -> dict[str, Said]:
        """Runs the commands in one slot, each with an environment that names nothing but the CA (and the proxy)."""
        order = {"commands": commands, "proxied": proxied}
        mounts = (
            Mount(str(INSIDE.parent), "/mnt/tests"),
            Mount(str(self.world.certificate), "/mnt/ca.pem"),
            Mount(str(PACKAGES), "/mnt/packages"),
        )
        words = ("python3", "/mnt/tests/inside.py")
        seen = run(self.runner, *words, stdin=json.dumps(order).encode(), tool=tool, mounts=mounts, timeout=120)
        assert seen.code == 0, seen
        return {name: Said(*said) for name, said in json.loads(seen.out).items()}

    def python(self, program: str, tool: str = TOOL) -> str:
        """What one program prints."""
        said = self.together({"it": ("python3", "-c", program)}, tool)["it"]
        assert said.code == 0, said
        return said.out.strip()


@contextlib.contextmanager
def start(way: str, world: World, without: tuple[str, ...] = ()) -> Iterator[Slots]:
    """`steered`: every port by sk_lookup · `spares`: entered, without it · `handed`: nothing is entered at all.

    The proxy is one `without` the guards of tests.net.broken_builds that are named.
    """
    workspace = world.directory / f"slots-{way}-{secrets.token_hex(3)}" / ".cloned"
    workspace.mkdir(mode=0o700, parents=True)
    workspace.parent.chmod(0o755)
    config = "sandbox: {name_addresses: 127.128.0.0/9}\n" if way == "handed" else ""
    proxy = world.serve(POLICY, ProxyOptions(workspace=workspace, config=config, without=without))
    patch = pytest.MonkeyPatch()
    if way == "spares":
        patch.setattr(names, "can_steer", lambda: False)
    with DockerContainerRunner(workspace=workspace, enter_namespaces=False if way == "handed" else None) as runner:
        yield Slots(way, world, proxy, runner)
    patch.undo()
    proxy.stop()


@pytest.fixture(scope="module", params=["steered", "spares", "handed"])
def slots(request: pytest.FixtureRequest, world: World, images: Engine) -> Iterator[Slots]:
    """Each of the three ways; what runs in one must run in all."""
    if os.geteuid() != 0:
        pytest.skip("entering a namespace of the engine takes root")
    _content(world)
    with start(request.param, world) as made:
        yield made
        assert leftovers(images, made.runner.workspace) == []


@pytest.fixture(scope="module")
def steered(world: World, images: Engine) -> Iterator[Slots]:
    """The way that a proxy with all capabilities takes."""
    if os.geteuid() != 0:
        pytest.skip("entering a namespace of the engine takes root")
    with start("steered", world) as made:
        yield made


def _content(world: World) -> None:
    if not (world.content / "simple" / "named").exists():
        add_python_package(world.content, "named")
        add_repository(world.content, "named", world.directory / "named-work")
