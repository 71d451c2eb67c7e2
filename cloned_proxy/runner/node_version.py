"""Which Node an image has: before 24, Node leaves HTTP_PROXY out unless a program brings an agent of its own."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.errors import SandboxError
from cloned_proxy.runner.spec import DEFAULT_USER, MIB

FIRST_WITH_PROXY: Final = 24
_SECONDS: Final = 10.0
_VERSION: Final = re.compile(r"v?(\d+(?:\.\d+)*)")


def node_version(engine: Engine, image: str) -> str | None:
    """Such as "20.19.2"; None for an image without Node, or one that cannot be asked.

    The official images say it in their environment. Others are asked in a container that has no network and is gone
    at the return.
    """
    try:
        facts = engine.image(image)
        for entry in (facts.get("Config") or {}).get("Env") or []:
            if entry.startswith("NODE_VERSION="):
                return _parsed(entry.partition("=")[2])
        return _asked(engine, image)
    except SandboxError:
        return None


def _asked(engine: Engine, image: str) -> str | None:
    container = engine.create(f"cloned_node_{secrets.token_hex(4)}", _container(image))
    try:
        engine.start(container)
        return _parsed(engine.last_words(container)) if engine.wait(container, _SECONDS) == 0 else None
    finally:
        engine.remove(container)


def _container(image: str) -> dict[str, Any]:
    """The body of the engine's create request."""
    return {
        "Image": image,
        "Entrypoint": ["node", "--version"],
        "Cmd": [],
        "User": DEFAULT_USER,
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "ReadonlyRootfs": True,
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": 64,
            "Memory": 256 * MIB,
            "MemorySwap": 256 * MIB,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "64k"}},
        },
    }


def _parsed(text: str) -> str | None:
    found = _VERSION.fullmatch(text.strip())
    return found[1] if found is not None else None
