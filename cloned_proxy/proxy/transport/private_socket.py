"""A unix socket for this user alone: mode 0600 in a 0700 directory, and whoever connects is asked for his user id."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import structlog

from cloned_proxy.local.unix_sockets import peer_user, short_path
from cloned_proxy.proxy.transport.listener import BindError

_log = structlog.get_logger(__name__)


def listen_privately(sock: socket.socket, path: Path, *, backlog: int, clear: Callable[[], None]) -> None:
    """Binds and listens; `clear` removes what was left there. Raises BindError, with the socket closed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        clear()
        with short_path(path) as name:
            sock.bind(name)
        path.chmod(0o600)
        sock.listen(backlog)
        sock.setblocking(False)
    except BindError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise BindError(f"{path} cannot be opened: {error.strerror}; make the workspace writable") from error


def accept_own_user(listening: socket.socket, *, connected: int, most: int) -> socket.socket | None:
    """The next connection, if this user or root made it and there are not `most` yet; any other is closed."""
    try:
        sock, _ = listening.accept()
    except OSError:
        return None
    sock.setblocking(False)
    user = peer_user(sock)
    if user in (os.geteuid(), 0) and connected < most:
        return sock
    _log.warning("local connection refused", socket=str(listening.getsockname()), user=user, connected=connected)
    sock.close()
    return None
