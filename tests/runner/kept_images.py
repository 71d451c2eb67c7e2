"""Images that the tests need, kept as files: an engine of the tests starts empty, and building them takes minutes.

Nothing is kept unless KEPT_IMAGES names a directory (`make test` does).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.apt_mirror import default_release
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE, check_current, source_mark
from cloned_proxy.runner.images.images import base_images, build_images
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import ImageMissingError

_BASES: Final = tuple(base_images(default_release()).values())


def bring_sandbox_images(engine: Engine, say: Callable[[str], None]) -> None:
    """Holder, worker and what they are built from. Raises EngineError."""
    try:
        check_current(engine, HOLDER_IMAGE)
        check_current(engine, PYTHON_IMAGE)
        for base in _BASES:
            engine.image(base)
    except ImageMissingError:
        bring("sandbox", (*_BASES, HOLDER_IMAGE, PYTHON_IMAGE), lambda: build_images(engine, say))


def bring(name: str, images: tuple[str, ...], build: Callable[[], None]) -> None:
    """The images, from the file of these sources if there is one, else built, and kept for the next engine."""
    directory = os.environ.get("KEPT_IMAGES")
    if directory is None:
        build()
        return
    file = Path(directory) / f"{name}-{source_mark()}.tar"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes with an engine each, one builds and both load
        if file.exists():
            subprocess.run(["docker", "load", "--quiet", "--input", file], capture_output=True, check=True, timeout=300)
            return
        build()
        _keep(file, images)


def _keep(file: Path, images: tuple[str, ...]) -> None:
    name = file.name.rpartition("-")[0]
    unfinished = file.with_suffix(f".{os.getpid()}")
    subprocess.run(["docker", "save", "--output", unfinished, *images], capture_output=True, check=True, timeout=300)
    for older in file.parent.glob(f"{name}-*.tar"):
        older.unlink()
    unfinished.rename(file)
