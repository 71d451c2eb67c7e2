"""Accepted sockets on their way to the event loop, which has each one a turn later."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from cloned_proxy.proxy.tunnel.connection import ClientConnection


class Accepted:
    """The accepted sockets of one gate, on the loop of the gate."""

    def __init__(self, leave: Callable[[ClientConnection], None]) -> None:
        """`leave`, as of `Gate`, gives the place of a connection back of which nothing came."""
        self._leave: Final = leave
        self._joining: Final[set[asyncio.Task[None]]] = set()

    def take(self, connection: ClientConnection, sock: socket.socket) -> None:
        """Has the loop serve the client, unless it has gone already."""
        # Begun here and now: it is all but done when it waits for the first time.
        loop = asyncio.get_running_loop()
        task = asyncio.Task(self._taken(connection, sock), loop=loop, eager_start=True)
        if not task.done():
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    async def _taken(self, connection: ClientConnection, sock: socket.socket) -> None:
        try:
            await self.join(connection, sock)
        except OSError:  # the client has gone already
            sock.close()

    async def join(self, connection: ClientConnection, sock: socket.socket) -> None:
        """The same for those who wait. Raises OSError where the client has gone; the socket is the caller's then."""
        loop = asyncio.get_running_loop()
        try:
            transport: object
            transport, _ = await loop.connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            self._leave(connection)
            raise
        # As in `dial.join`: uvloop has the descriptor by now, and the object must not close it once more.
        if not isinstance(transport, asyncio.Transport):
            sock.detach()
