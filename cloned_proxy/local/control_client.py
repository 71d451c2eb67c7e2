"""Asks every serving process of a workspace what it does now, or to cut a tunnel or probe its sandbox.

One line of JSON asks, one answers: `proxy.serving.control_channel` is the other end. Both check the other's user id.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from cloned_proxy.local.unix_sockets import peer_user, short_path

PLACE: Final = ("run", "control")
"""Below the workspace: the sockets, one for each serving process."""
MAX_CAUSE: Final = 100
MAX_ACTOR: Final = 100


def ask_all(workspace: Path, question: dict[str, Any], *, seconds: float = 2.0) -> list[dict[str, Any]]:
    """What every serving process answers, those that do not answer left out. Blocks for `seconds` at most for each."""
    encoded = json.dumps(question).encode() + b"\n"
    answers = (_ask(path, encoded, seconds) for path in sockets_in(workspace.joinpath(*PLACE)))
    return [answer for answer in answers if answer is not None]


def _ask(path: Path, question: bytes, seconds: float) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError), short_path(path) as name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(seconds)
            sock.connect(name)
            if peer_user(sock) not in (os.geteuid(), 0):
                return None
            sock.sendall(question)
            with sock.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        return answer if isinstance(answer, dict) else None
    return None


def sockets_in(directory: Path) -> list[Path]:
    """Those of all serving processes, whether or not they still are."""
    return sorted(path for path in directory.glob("*.sock") if path.is_socket())
