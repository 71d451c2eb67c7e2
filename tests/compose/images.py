"""The images of the stack without a registry: the proxy's own from this checkout, the others from stand-ins."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.apt_mirror import mirror_uri
from cloned_proxy.runner.values.errors import ImageMissingError
from tests.compose.test_files import absent
from tests.runner.kept_images import bring, bring_sandbox_images

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
PROXY = "cloned-proxy:0.2.0"
RELEASE = "trixie"
BASE = f"cloned-python:{RELEASE}"
TOOLCHAIN = f"cloned-toolchain:{RELEASE}"
TAGS = {name: f"cloned-test-{name}:latest" for name in ("grafana", "localai", "prometheus")}
_LEFT_OUT = ("doc", "man", "locale", "info")


def _import_base(engine: Engine) -> None:
    """Debian with Python and certificates, and nothing to read: what python:3.13-slim is in a registry."""
    if shutil.which("mmdebstrap") is None:
        absent("mmdebstrap", "apt-get install mmdebstrap")
    with tempfile.TemporaryDirectory() as directory:
        tar = f"{directory}/root.tar"
        words = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
        words += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _LEFT_OUT]
        done = subprocess.run([*words, RELEASE, tar, mirror_uri()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        engine.import_image(tar, BASE)


def bring_base(engine: Engine) -> None:
    """Debian with Python, which the image of the proxy begins with."""
    try:
        engine.image(BASE)
    except ImageMissingError:
        bring("python", (BASE,), lambda: _import_base(engine))


def _docker(*words: str) -> None:
    done = subprocess.run(["docker", "build", *words], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def fetch_wheels() -> None:
    """What the proxy's image is built from, into build/wheels."""
    done = subprocess.run(["make", "wheels"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        absent("the wheels of the proxy's image", f"`make wheels`: {done.stderr[-300:]}")


def build_all(engine: Engine) -> None:
    """Everything that compose.yaml names. A second time it takes seconds."""
    for program in ("docker", "docker-compose", "prometheus"):
        if shutil.which(program) is None:
            absent(program, "apt-get install docker.io docker-compose prometheus")
    bring_sandbox_images(engine, lambda text: print(text, file=sys.stderr))  # noqa: T201  minutes without a word look like a hang
    bring_base(engine)
    fetch_wheels()
    arguments = [f"--build-arg=BASE={BASE}", f"--build-arg=TOOLCHAIN={TOOLCHAIN}"]
    _docker("--network=none", "--file", str(ROOT / "compose/Dockerfile"), *arguments, "--tag", PROXY, str(ROOT))
    with tempfile.TemporaryDirectory() as directory:
        prometheus = Path(str(shutil.which("prometheus")))
        for file in (*STAND_INS.iterdir(), ROOT / "tests/runner/localai_stand_in.py", prometheus):
            if file.is_file():
                shutil.copy(file, directory)
        for name, tag in TAGS.items():
            _docker("--network=none", "--target", name, f"--build-arg=BASE={PROXY}", "--tag", tag, directory)
