"""A peer that is gone when the end of the session is to be said to it: that is no failure, and ends in no traceback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from cloned_proxy.proxy.inspection.connections.streams import ClientWriter
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from tests.proxy.inspection.support import World

_RESET = struct.pack("ii", 1, 0)


async def test_a_client_that_was_reset_is_told_nothing_more(world: World) -> None:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        coming = asyncio.create_task(
            asyncio.open_connection("127.0.0.1", port, ssl=world.client_tls(), server_hostname=world.host)
        )
        reader, writer = await accepted.get()
        session = world.inspector.services.sessions.accepting(world.host, http2=False)
        stream = TlsStream(session, reader, ClientWriter(writer))
        await stream.handshake()
        _, client = await coming
        client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        assert not stream.dead
        stream.close()
        assert stream.dead
