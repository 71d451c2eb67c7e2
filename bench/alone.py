"""Parts of the benchmark that are scripts of their own, and print one JSON object."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys

from bench.contenders import ContenderError
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.worker import PYTHON_IMAGE
from tests.runner.kept_images import bring_sandbox_images


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
