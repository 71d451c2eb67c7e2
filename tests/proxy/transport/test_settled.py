"""Whether a client that nobody reads is still there."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from cloned_proxy.proxy.transport.settled import has_left
from tests.proxy.support import until

_RESET = struct.pack("ii", 1, 0)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


ENDS: dict[str, tuple[Callable[[socket.socket], None], bool]] = {
    "a reset": (reset, True),
    "a close": (socket.socket.close, False),
    "half a close": (lambda sock: sock.shutdown(socket.SHUT_WR), False),
}
"""How it ends, and whether nothing can be sent to it either, as far as anybody knows."""


@pytest.mark.parametrize("name", ENDS)
async def test_an_end_behind_bytes_that_nobody_has_read_is_seen(name: str) -> None:
    end, wholly = ENDS[name]
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as peer:
            accepted, _ = listening.accept()
            accepted.setblocking(False)
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
            transport.pause_reading()
            peer.sendall(b"unread" * 1000)
            assert not has_left(transport)
            end(peer)
            await until(lambda: has_left(transport))
            assert has_left(transport, half_closed=False) is wholly
        transport.abort()
        assert has_left(transport, half_closed=False)
