"""Parts of the benchmark that are scripts of their own, and print one JSON object."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from bench.contenders import ContenderError, Squid
from bench.report import Results
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from tests.runner.kept_images import bring_sandbox_images


class _Script(NamedTuple):
    module: str
    seconds: float
    """At most."""
    counts_rounds: int = 0
    """Times the rounds of the run, with `--rounds`; 0: it has its own."""
    images: bool = False
    """Whether it needs an engine and the sandbox's images."""


PARTS: Final[Mapping[str, tuple[_Script, ...]]] = {
    "neighbour": (_Script("bench.neighbour", 90.0, 1), _Script("bench.crowded", 180.0)),
    "opened": (_Script("bench.opened", 240.0, 1), _Script("bench.inspected", 240.0, 1)),
    "chained": (_Script("bench.chained", 180.0),),
    "fleet": (_Script("bench.fleet_cost", 360.0),),
    "registry": (_Script("bench.registry", 120.0, 3),),
    "sandbox": tuple(
        _Script(f"bench.{name}", 240.0, images=True) for name in ("sandbox", "transparent", "mcp", "warm_exec")
    ),
    "model": (_Script("bench.model", 300.0, images=True),),
}
"""By the name of a part, which is that of its field in the results."""


async def run_alone(part: str, rounds: int, results: Results) -> None:
    """Puts the figures of a part into the results; says why where it cannot be run here."""
    if missing := _missing(part):
        print(f"  left out: needs {missing}", flush=True)
        return
    found: dict[str, float] = getattr(results, part)
    for script in PARTS[part]:
        options = ("--rounds", str(rounds * script.counts_rounds)) if script.counts_rounds else ()
        found |= await alone(script.module, script.seconds, *options, images=script.images)


def _missing(part: str) -> str:
    if part == "chained" and (os.geteuid() != 0 or Squid.version() is None):
        return "root and Squid"
    return "redis-server" if part == "fleet" and shutil.which("redis-server") is None else ""


async def alone(module: str, seconds: float, *options: str, images: bool = True) -> dict[str, float]:
    """The figures of a script of its own; {} where it needs an engine and the images, and there are none."""
    if images and not images_here():
        print("  left out: no engine, or no images (`cloned-proxy image build`)", flush=True)
        return {}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *options, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise ContenderError(f"python -m {module} failed; run it alone to see why")
    found: dict[str, float] = json.loads(said) if said else {}
    for name, value in found.items():
        print(f"  {name}: {value}", flush=True)
    return found


def images_here() -> bool:
    """Whether an engine answers that has the image of the Python worker."""
    if (docker := shutil.which("docker")) is None:
        return False
    asked = subprocess.run([docker, "image", "inspect", PYTHON_IMAGE], capture_output=True, check=False, timeout=30)
    return asked.returncode == 0


def bring_images() -> None:
    """The images of the sandbox, built if the engine has none. Raises EngineError."""
    with contextlib.closing(Engine.connect()) as engine:
        bring_sandbox_images(engine, print_to_stderr)


def print_to_stderr(line: str) -> None:
    """Stdout is for the figures."""
    sys.stderr.write(f"{line}\n")
