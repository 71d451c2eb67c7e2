"""The images that `image build` made, as the engine knows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import NODE_LABEL, SOURCE_LABEL, source_mark
from cloned_proxy.runner.images.tool_image import LOCK_LABEL, PACKAGES_LABEL
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE


@dataclass(frozen=True, slots=True)
class BuiltImage:
    name: str
    size: int
    """Bytes, with what it shares with others."""
    node: str | None
    packages: tuple[str, ...]
    """What was asked for: `npm:NAME@VERSION`, `pypi:NAME==VERSION`."""
    locked: int
    """How many packages its lock pins, with all that those need."""
    current: bool
    """Whether it is on a worker of this program's sources."""


def built_images(engine: Engine) -> Iterator[BuiltImage]:
    """The worker, then the images with baked packages, by name. Raises EngineError."""
    mark = source_mark()
    for name in (*engine.images(PYTHON_IMAGE), *engine.images(label=PACKAGES_LABEL)):
        facts = engine.image(name)
        labels = (facts.get("Config") or {}).get("Labels") or {}
        lock = json.loads(labels.get(LOCK_LABEL) or "{}")
        npm = [place for place in (lock.get("npm") or {}).get("packages", {}) if place]
        yield BuiltImage(
            name=name,
            size=int(facts["Size"]),
            node=labels.get(NODE_LABEL) or None,
            packages=tuple(json.loads(labels.get(PACKAGES_LABEL) or "[]")),
            locked=len(npm) + len(str(lock.get("pypi") or "").splitlines()),
            current=labels.get(SOURCE_LABEL) == mark,
        )
