"""Which Node an image has: before 24, Node leaves HTTP_PROXY out unless a program brings an agent of its own."""

from __future__ import annotations

import re
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import NODE_LABEL
from cloned_proxy.runner.images.image_question import ask
from cloned_proxy.runner.values.errors import SandboxError

FIRST_WITH_PROXY: Final = 24
_VERSION: Final = re.compile(r"v?(\d+(?:\.\d+)*)")


def node_version(engine: Engine, image: str) -> str | None:
    """Such as "20.19.2"; None for an image without Node, or one that cannot be asked.

    Ours say it in a label, the official ones in their environment. Others are asked in a container that has no network
    and is gone at the return.
    """
    try:
        facts = engine.image(image)
        if known := ((facts.get("Config") or {}).get("Labels") or {}).get(NODE_LABEL):
            return _parsed(known)
        for entry in (facts.get("Config") or {}).get("Env") or []:
            if entry.startswith("NODE_VERSION="):
                return _parsed(entry.partition("=")[2])
        said = ask(engine, image, "node", "--version")
        return _parsed(said) if said is not None else None
    except SandboxError:
        return None


def _parsed(text: str) -> str | None:
    found = _VERSION.fullmatch(text.strip())
    return found[1] if found is not None else None
