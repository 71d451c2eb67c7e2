"""Which images the engine has already, so that nobody is told to spend minutes on one that is there."""

from __future__ import annotations

from contextlib import closing

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE, check_current
from cloned_proxy.runner.images.image_list import built_images
from cloned_proxy.runner.values.errors import SandboxError


def images_here() -> frozenset[str]:
    """The names of images of this version of the program; none where no engine answers."""
    try:
        with closing(Engine.connect()) as engine:
            check_current(engine, HOLDER_IMAGE)
            return frozenset(image.name for image in built_images(engine) if image.current)
    except SandboxError:
        return frozenset()
