"""The runner's end of `proxy.slots.slot_api`: hands a slot's sockets to the serving process and keeps them served.

When the serving process goes away the sockets close with it and the tool sees refused connections. When one comes
back, in the same workspace, the link opens new sockets in the same slot and hands those over: a restart of the proxy
costs a running tool its open connections, not its run.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.local.slot_protocol import (
    MAX_MESSAGE,
    SOCKET_PLACE,
    OpenSlot,
    RunEnd,
    SlotProtocolError,
    decode,
    encode,
)
from cloned_proxy.local.unix_sockets import new_socket, peer_user, short_path
from cloned_proxy.runner.namespaces.slot_sockets import Descriptor
from cloned_proxy.runner.values.errors import ProxyLinkError, SlotError

_REPLY_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.5

type OpenSockets = Callable[[], Sequence[Descriptor]]
"""Makes what the request announces, in its order: the listeners of a slot, and what its names take."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the serving process answered."""

    ca: str | None
    """PEM of the workspace CA, when a rule of the tool opens TLS."""


def connect(workspace: Path) -> socket.socket:
    """A connection to the serving process of a workspace. Raises ProxyLinkError when none answers."""
    path = workspace.joinpath(*SOCKET_PLACE)
    sock = new_socket()
    try:
        sock.settimeout(_REPLY_SECONDS)
        with short_path(path) as name:
            sock.connect(name)
        user = peer_user(sock)
    except OSError as error:
        sock.close()
        raise ProxyLinkError(f"no proxy runs in {workspace}: start one with `cloned-proxy serve`") from error
    if user not in (os.geteuid(), 0):
        sock.close()
        raise ProxyLinkError(f"{path} belongs to a process of user {user}; use a workspace of your own")
    return sock


def is_served(workspace: Path) -> bool:
    """Whether a proxy runs in the workspace and answers."""
    try:
        proxy_status(workspace)
    except ProxyLinkError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    address: str
    """`host:port` of the listener that wants credentials."""
    ca: str | None
    """The CA as in `Served`, for the tool that was asked about."""


def proxy_status(workspace: Path, tool: str = "") -> ProxyStatus:
    """What the serving process says of itself. Raises ProxyLinkError."""
    with connect(workspace) as sock:
        reply = ask(sock, encode(op="status", tool=tool), workspace)
    return ProxyStatus(str(reply.get("address", "")), reply.get("ca"))


def tell_end(workspace: Path, tool: str, run: str, end: RunEnd) -> None:
    """Puts the end of a run without a slot on record. Raises ProxyLinkError."""
    with connect(workspace) as sock:
        ask(sock, end.encode("ran", tool=tool, run=run), workspace)


def ask(sock: socket.socket, message: bytes, workspace: Path) -> dict[str, Any]:
    """Sends one message and returns the answer. Raises ProxyLinkError."""
    try:
        sock.send(message)
    except OSError as error:
        raise ProxyLinkError(f"the proxy of {workspace} does not answer: {error.strerror}; restart it") from error
    return _reply(sock)


class ProxyLink:
    """One slot's listeners at the serving process, for the time of one run."""

    def __init__(self, workspace: Path, request: OpenSlot, make: OpenSockets) -> None:
        self._workspace = workspace
        self._request = request
        self._make = make
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._sock: socket.socket | None = None

    def open(self) -> Served:
        """Opens the sockets in the slot and hands them over. Raises ProxyLinkError or SlotError."""
        self._sock, served = self._hand_over()
        self._watcher = threading.Thread(target=self._watch, name="proxy-link", daemon=True)
        self._watcher.start()
        return served

    def close(self, end: RunEnd) -> None:
        """Says how the run ended and ends the slot.

        Returns when the serving process has closed its sockets, or is gone.
        """
        self._ending.set()
        self._wake_writer.close()
        if self._watcher is not None:
            self._watcher.join()
        sock = self._sock
        if sock is not None:
            with contextlib.suppress(OSError, ProxyLinkError):
                sock.settimeout(_REPLY_SECONDS)
                sock.send(end.encode("done"))
                _reply(sock)
                sock.send(encode(op="close"))
                sock.recv(1)
            sock.close()
        self._wake_reader.close()

    def _hand_over(self) -> tuple[socket.socket, Served]:
        link = connect(self._workspace)
        sockets: Sequence[Descriptor] = ()
        try:
            sockets = self._make()
            socket.send_fds(link, [self._request.encode()], [sock.fileno() for sock in sockets])
            reply = _reply(link)
        except OSError as error:
            link.close()
            raise ProxyLinkError(f"the proxy went away while it took the slot: {error}; start it again") from error
        except (SlotError, ProxyLinkError):
            link.close()
            raise
        finally:
            # Ours must be closed: with a copy in this process, a dead proxy would look like a slow one.
            for sock in sockets:
                sock.close()
        return link, Served(reply.get("ca"))

    def _watch(self) -> None:
        """Waits for the end of the serving process, and for the next one."""
        while not self._ending.is_set():
            sock = self._sock
            watched = [self._wake_reader] if sock is None else [self._wake_reader, sock]
            readable, _, _ = select.select(watched, [], [], _RETRY_SECONDS if sock is None else None)
            if self._wake_reader in readable:
                return
            if sock is not None:
                sock.close()
                self._sock = None
                continue
            with contextlib.suppress(ProxyLinkError, SlotError):
                self._sock, _ = self._hand_over()


def _reply(sock: socket.socket) -> dict[str, Any]:
    try:
        data = sock.recv(MAX_MESSAGE)
        body = decode(data) if data else None
    except (OSError, SlotProtocolError) as error:
        raise ProxyLinkError(f"the proxy did not answer: {error}; restart `cloned-proxy serve`") from error
    if body is None:
        raise ProxyLinkError("the proxy closed the connection; is it stopping? start `cloned-proxy serve` again")
    if not body.get("ok"):
        raise ProxyLinkError(f"the proxy refused the slot: {body.get('error', 'no reason given')}")
    return body
