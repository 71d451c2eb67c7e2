"""Load of which each request can be told from every other one: `python -m tests.net.marked_load PORT CA HOST`.

Requests go out as plain HTTP, on connections of their own and on kept ones, and through tunnels, each for a path of its
own, `/WORD-WAY-NUMBER`. Each line of stdin is the word from then on; each line of stdout is `WORD WAY NUMBER STATUS`,
with status 0 where no answer came.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

type Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_EACH = 4
"""Clients of each way."""
_PAUSE = 0.02
"""Seconds between two requests of a client: the machine has other things to do as well."""


class Load:
    def __init__(self, port: int, context: ssl.SSLContext, host: str) -> None:
        self._port = port
        self._context = context
        self._host = host
        self._numbers = itertools.count(1)
        self._word = "first"

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_words())
            for way in ("plain", "kept", "tunnel"):
                for _ in range(_EACH):
                    group.create_task(self._over_and_over(way))

    async def _read_words(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self._word = line.decode().strip()
        raise SystemExit  # whoever wanted the load is gone

    async def _over_and_over(self, way: str) -> None:
        while True:
            async with self._connected() as streams:
                while await self._ask(*streams, way):  # noqa: ASYNC110  nothing is waited for
                    await asyncio.sleep(_PAUSE)
            await asyncio.sleep(_PAUSE)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Streams]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> bool:
        """One request, told when it is over; whether another one may follow on this connection."""
        name = f"{self._word} {way} {next(self._numbers)}"
        status = 0
        with suppress(OSError, asyncio.IncompleteReadError):
            status = await self._status(reader, writer, way, name.replace(" ", "-"))
        sys.stdout.write(f"{name} {status}\n")
        sys.stdout.flush()
        return way == "kept" and status == 200

    async def _status(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, path: str) -> int:
        target = f"http://{self._host}/{path}"
        if way == "tunnel":
            writer.write(f"CONNECT {self._host}:443 HTTP/1.1\r\nHost: {self._host}:443\r\n\r\n".encode())
            if (status := await _answer(reader)) != 200:
                return status
            await writer.start_tls(self._context, server_hostname=self._host)
            target = f"/{path}"
        ends = "" if way == "kept" else "Connection: close\r\n"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\n{ends}\r\n".encode())
        return await _answer(reader)


async def _answer(reader: asyncio.StreamReader) -> int:
    """Reads a whole one; its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    await reader.readexactly(int(length or 0))
    return int(head.split()[1])


if __name__ == "__main__":
    asyncio.run(Load(int(sys.argv[1]), ssl.create_default_context(cafile=sys.argv[2]), sys.argv[3]).run())
