"""Which images the engine has already, so that nobody is told to spend minutes on one that is there."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE, check_current
from cloned_proxy.runner.images.image_list import built_images
from cloned_proxy.runner.values.errors import SandboxError

_SECONDS: Final = 30.0
"""For an engine that hangs: what is asked here only shortens what is said, and is worth no longer a wait."""


def images_here() -> frozenset[str]:
    """The names of images of this version of the program; none where no engine answers in time."""
    found: list[str] = []

    def look() -> None:
        with suppress(SandboxError), closing(Engine.connect()) as engine:
            check_current(engine, HOLDER_IMAGE)
            found.extend([image.name for image in built_images(engine) if image.current])

    # A daemon: nobody waits for it at the end of the program either.
    asking = threading.Thread(target=look, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return frozenset(found)
