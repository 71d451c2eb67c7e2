"""Sockets in a slot's namespace without entering it: its holder makes them and hands their descriptors over.

No capability is needed on either side, and nothing is copied: what is accepted on such a socket is served by the proxy
itself. It takes one kernel for both, as everything does that shares a unix socket by a mount.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cloned_proxy.local.unix_sockets import new_socket, short_path
from cloned_proxy.runner.values.errors import SlotError

SOCKET_NAME: Final = "holder.sock"
_ORDER: Final = struct.Struct("!cxH")
"""An order to the holder, in the form of sandbox/holder.c."""
_ANSWER_SECONDS: Final = 10.0
_LONGEST: Final = 200

type Order = tuple[bytes, int]
"""Kind and port."""


def listening(port: int, host: str) -> Order:
    """A TCP socket that listens on 127.0.0.1 or on all addresses of the slot."""
    return (b"L" if host == "127.0.0.1" else b"W", port)


def datagrams(port: int) -> Order:
    """A UDP socket on 127.0.0.1."""
    return (b"U", port)


def spare() -> Order:
    """A TCP socket that is not bound yet."""
    return (b"S", 0)


class HandingHolder:
    """The link to one holder: made before it starts, and good for any number of orders."""

    def __init__(self, directory: Path) -> None:
        """`directory` is on both sides: only this holder mounts it. Raises SlotError."""
        path = directory / SOCKET_NAME
        self._listening = new_socket()
        self._link: socket.socket | None = None
        try:
            with short_path(path) as name:
                self._listening.bind(name)
            os.chmod(path, 0o666)  # noqa: S103, PTH101  the holder's user must connect; the directory above lets nobody else in
            self._listening.listen(1)
        except OSError as error:
            self.close()
            raise SlotError(f"{path} cannot be opened: {error.strerror}") from error

    def accept(self) -> None:
        """Takes the holder's connection, which it makes before it says that it is ready. Raises SlotError."""
        self._listening.settimeout(_ANSWER_SECONDS)
        try:
            self._link, _ = self._listening.accept()
        except OSError as error:
            raise SlotError(
                "the holder did not come to hand its sockets over; is the engine on another machine?"
            ) from error
        finally:
            self._listening.close()
        self._link.settimeout(_ANSWER_SECONDS)

    def get(self, orders: Sequence[Order]) -> list[socket.socket]:
        """One socket for each. Raises SlotError."""
        if self._link is None:
            raise SlotError("the holder is not connected")
        try:
            self._link.send(b"".join(_ORDER.pack(*order) for order in orders))
            said, descriptors, _, _ = socket.recv_fds(self._link, _LONGEST, len(orders))
        except OSError as error:
            raise SlotError(f"the holder does not hand its sockets over: {error}; run the command again") from error
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in sockets:
            sock.set_inheritable(False)
        if len(sockets) != len(orders):
            for sock in sockets:
                sock.close()
            ports = ", ".join(str(port) for _, port in orders if port)
            reason = said.decode(errors="replace") or "the holder is gone"
            raise SlotError(f"ports {ports} cannot be opened inside the slot: {reason}; run the command again")
        return sockets

    def close(self) -> None:
        self._listening.close()
        if self._link is not None:
            self._link.close()
