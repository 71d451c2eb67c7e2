"""What a program in an image says of itself: asked in a container without a network, gone at the return."""

from __future__ import annotations

import secrets
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import EngineError
from cloned_proxy.runner.values.spec import DEFAULT_USER, MIB

_SECONDS: Final = 10.0
_PYTHON: Final = "import platform, sys; print(*sys.version_info[:2], platform.libc_ver()[1], sep='.')"


def ask(engine: Engine, image: str, *command: str) -> str | None:
    """The last line that the command prints; None when it fails. Raises EngineError, also without such a program."""
    container = engine.create(f"cloned_node_{secrets.token_hex(4)}", _container(image, command))
    try:
        engine.start(container)
        return engine.last_words(container) if engine.wait(container, _SECONDS) == 0 else None
    finally:
        engine.remove(container)


def python_and_glibc(engine: Engine, image: str) -> tuple[str, int]:
    """Such as ("3.13", 41) for glibc 2.41: what wheels for the image must fit. Raises EngineError."""
    said = ask(engine, image, "python3", "-c", _PYTHON) or ""
    parts = said.split(".")
    if len(parts) != 4 or not parts[3].isdigit():  # noqa: PLR2004  two versions of two numbers
        raise EngineError(f"the Python of {image} says neither its version nor its glibc's: {said}")
    return f"{parts[0]}.{parts[1]}", int(parts[3])


def _container(image: str, command: tuple[str, ...]) -> dict[str, Any]:
    """The body of the engine's create request."""
    return {
        "Image": image,
        "Entrypoint": list(command),
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
