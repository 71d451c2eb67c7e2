"""The relay on 127.0.0.1:8080: each connection goes on into the model's namespace, to the port it has there.

A process of its own, started by `llm up`, which ends with the model, however that ends; bytes only, nothing is
looked at. Whoever may connect to this machine's loopback may use the model: for tools, the proxy decides that, under
their own rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import threading
from typing import Final

_CHUNK: Final = 65_536
_CONNECT_SECONDS: Final = 5.0


class InsideSockets:
    """Makes sockets that belong to another network namespace, in one thread that entered it and stays."""

    def __init__(self, descriptor: int) -> None:
        self._wanted: queue.SimpleQueue[queue.SimpleQueue[socket.socket | OSError]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._make, args=(descriptor,), name="inside", daemon=True)
        self._thread.start()

    def new(self) -> socket.socket:
        """A TCP socket inside. Raises OSError when the namespace cannot be entered."""
        answer: queue.SimpleQueue[socket.socket | OSError] = queue.SimpleQueue()
        self._wanted.put(answer)
        made = answer.get()
        if isinstance(made, OSError):
            raise made
        return made

    def _make(self, descriptor: int) -> None:
        problem: OSError | None = None
        try:
            os.setns(descriptor, os.CLONE_NEWNET)
        except OSError as error:
            # Never a socket of the namespace we came from: that would be the host's own.
            problem = error
        while True:
            answer = self._wanted.get()
            try:
                answer.put(problem or socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            except OSError as error:
                answer.put(error)


async def serve(listening: socket.socket, descriptor: int, model: int, port: int) -> None:
    """Relays until the process behind `model`, a pidfd, has ended."""
    inside = InsideSockets(descriptor)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await _connect(inside, port)
        except (OSError, TimeoutError):
            writer.transport.abort()  # the model is not up (yet): the client sees a reset
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, up_writer))
                group.create_task(_copy(up_reader, writer))
        except* OSError:
            pass  # one side went away; both are closed
        finally:
            for each in (writer, up_writer):
                each.transport.abort()

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(model, ended.set)
    server = await asyncio.start_server(relay, sock=listening, backlog=128)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(model)
        server.close()


async def _connect(inside: InsideSockets, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = inside.new()
    sock.setblocking(False)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
    await writer.drain()


def main(listening: int, namespace: int, model: int, port: int) -> None:
    """Entry of the relay process: its three descriptors are inherited."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=listening), namespace, model, port))
