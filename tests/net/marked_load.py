"""Load of which each request can be told from every other one.

`python -m tests.net.marked_load PORT CA CLIENTS PAUSE WAYS TARGET...`, where a target is `HOST` or `HOST=TOKEN`: so
many clients of each way ask for each target, with so many seconds between two requests. WAYS, with commas between
them: `plain` on connections of their own and `kept` on one after the other, `tunnel` through tunnels of their own,
`opened` through one as long as that lasts.

Requests go out for a path of their own, `/WORD-WAY-NUMBER`. Each line of stdin is the word from then on; each line of
stdout is `WORD WAY NUMBER STATUS HOST`, with status 0 where no answer came.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

type Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_GOES_ON: Final = frozenset({"kept", "opened"})
_TUNNELS: Final = frozenset({"tunnel", "opened"})


@dataclass(frozen=True)
class Target:
    host: str
    credential: str
    """A field of the head, or nothing."""

    @classmethod
    def of(cls, argument: str) -> Target:
        host, _, token = argument.partition("=")
        return cls(host, f"Proxy-Authorization: Bearer {token}\r\n" if token else "")


class Load:
    def __init__(self, port: int, context: ssl.SSLContext, pause: float) -> None:
        self._port = port
        self._pause = pause
        self._context = context
        self._numbers = itertools.count(1)
        self._word = "first"

    async def run(self, clients: int, ways: Sequence[str], targets: Sequence[Target]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_words())
            for way, target in itertools.product(ways, targets):
                for _ in range(clients):
                    group.create_task(self._over_and_over(way, target))

    async def _read_words(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self._word = line.decode().strip()
        raise SystemExit  # whoever wanted the load is gone

    async def _over_and_over(self, way: str, target: Target) -> None:
        while True:
            async with self._connected() as streams:
                fresh = True
                while await self._ask(*streams, way, target, fresh=fresh):
                    fresh = False
                    await asyncio.sleep(self._pause)
            await asyncio.sleep(self._pause)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Streams]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, target: Target, *, fresh: bool
    ) -> bool:
        """One request, told when it is over; whether another one may follow on this connection."""
        name = f"{self._word} {way} {next(self._numbers)}"
        status = 0
        with suppress(OSError, asyncio.IncompleteReadError):
            refused = await self._open_tunnel(reader, writer, target) if fresh and way in _TUNNELS else 0
            status = refused or await _status(reader, writer, way, target, name.replace(" ", "-"))
        sys.stdout.write(f"{name} {status} {target.host}\n")
        sys.stdout.flush()
        return way in _GOES_ON and status == 200

    async def _open_tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target) -> int:
        """The status of a refusal; 0 when the tunnel is open."""
        host = target.host
        writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{target.credential}\r\n".encode())
        if (status := await _answer(reader)) != 200:
            return status
        await writer.start_tls(self._context, server_hostname=host)
        return 0


async def _status(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, target: Target, path: str
) -> int:
    url = f"/{path}" if way in _TUNNELS else f"http://{target.host}/{path}"
    credential = "" if way in _TUNNELS else target.credential
    ends = "" if way in _GOES_ON else "Connection: close\r\n"
    writer.write(f"GET {url} HTTP/1.1\r\nHost: {target.host}\r\n{credential}{ends}\r\n".encode())
    return await _answer(reader)


async def _answer(reader: asyncio.StreamReader) -> int:
    """Reads a whole one; its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    await reader.readexactly(int(length or 0))
    return int(head.split()[1])


if __name__ == "__main__":
    port, ca, clients, pause, ways, *targets = sys.argv[1:]
    load = Load(int(port), ssl.create_default_context(cafile=ca), float(pause))
    asyncio.run(load.run(int(clients), ways.split(","), [Target.of(each) for each in targets]))
