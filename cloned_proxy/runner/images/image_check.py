"""What our images are made of, and whether one is of this program's sources. Every run asks; few commands build."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import ImageMissingError
from cloned_proxy.share import share_path

HOLDER_IMAGE: Final = "cloned-holder:latest"
SOURCE_LABEL: Final = "cloned.source"
NODE_LABEL: Final = "cloned.node"
"""The version of Node in an image of ours; it need not be asked of the image itself."""

CORE: Final = ("ca-certificates", "curl", "python3", "python3-pip", "python3-venv")
PARTS: Final = {
    "node": (),
    "uv": (),
    "git": ("git",),
    "ssh": ("openssh-client",),
    "netcat": ("netcat-openbsd",),
    "ripgrep": ("ripgrep",),
    "jq": ("jq",),
}
"""What the worker has beside Python and curl, and Debian's packages of each; Node and uv come from wheels."""


def source_mark() -> str:
    """A hash over what goes into the images."""
    folder = share_path("sandbox")
    digest = hashlib.sha256(repr((CORE, PARTS)).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_current(engine: Engine, name: str) -> dict[str, Any]:
    """What the engine knows of an image; one of ours must be of this program's sources. Raises ImageMissingError."""
    facts = engine.image(name)
    labels = (facts.get("Config") or {}).get("Labels") or {}
    if name in (HOLDER_IMAGE, PYTHON_IMAGE) and labels.get(SOURCE_LABEL) != source_mark():
        raise ImageMissingError(f"image {name} is of another version of this program: `cloned-proxy image build`")
    return facts
