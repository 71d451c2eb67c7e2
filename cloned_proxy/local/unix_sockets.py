"""Unix sockets between processes of one user: who is at the other end, and a name that fits."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LONGEST_ADDRESS: Final = 107
_PEER_CREDENTIALS: Final = struct.Struct("3i")
"""pid, uid, gid: `struct ucred`, unix(7)."""


def new_socket() -> socket.socket:
    """A socket that keeps messages apart, so that descriptors stay with theirs."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def peer_user(sock: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel recorded it."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    return int(_PEER_CREDENTIALS.unpack(data)[1])


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket address (107 bytes, unix(7)) however deep the workspace lies.

    A link in a temporary directory, not /proc/self/fd: the name stays with the socket, and asyncio looks it up again in
    the process that the socket was handed to.
    """
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    # TMPDIR may lie as deep as the workspace. What is made in either is this user's alone, under a name like no other.
    shallow = min(tempfile.gettempdir(), "/tmp", key=len)  # noqa: S108  see above
    with tempfile.TemporaryDirectory(prefix="cloned-", dir=shallow) as directory:
        link = Path(directory) / "d"
        link.symlink_to(path.parent, target_is_directory=True)
        yield str(link / path.name)
