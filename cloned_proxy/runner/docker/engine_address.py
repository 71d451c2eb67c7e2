"""Where the container engine is, and whether anybody listens there. Needs no Docker SDK, so `serve` can ask, too."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final
from urllib.parse import urlsplit

_PATIENCE: Final = 2.0


def engine_host() -> str:
    """`DOCKER_HOST`, else the default socket."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def try_engine(host: str) -> None:
    """Raises OSError when nobody listens on the engine's unix socket."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(host.removeprefix("unix://"))


def engine_listens() -> bool:
    """Whether anybody listens where the engine should be. Blocks for two seconds at most."""
    host = engine_host()
    with contextlib.suppress(OSError, ValueError):
        if not host.startswith("unix://"):
            place = urlsplit(host)
            socket.create_connection((place.hostname or "", place.port or 2375), timeout=_PATIENCE).close()
        else:
            try_engine(host)
        return True
    return False
