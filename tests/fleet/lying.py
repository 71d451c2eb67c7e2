"""A store that lies: between a replica and a real server, it speaks the real protocol and changes what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

type Lie = Callable[[list[bytes], Any], Any]
"""A command and its true answer, to what is answered: a value, `Raw` bytes, or the true answer as it came."""

_READ_LIMIT: Final = 1 << 26


class Raw(bytes):
    """Sent as it is, whether or not it is the protocol."""

    __slots__ = ()


class LyingStore:
    """`lie` may be changed at any time; None tells the truth."""

    def __init__(self, server: Path, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self.lie: Lie | None = None
        self.accepted = 0
        """Connections, since it began."""
        self.commands: list[list[bytes]] = []
        self._server, self._socket = server, socket
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[LyingStore]:
        listening = await asyncio.start_unix_server(self._serve, str(self._socket))
        try:
            yield self
        finally:
            listening.close()
            self.cut()

    def cut(self) -> None:
        """Ends every connection."""
        for writer in self._writers:
            writer.close()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._writers) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        up, down = await asyncio.open_unix_connection(str(self._server), limit=_READ_LIMIT)
        asked: asyncio.Queue[list[bytes]] = asyncio.Queue()
        ours = {writer, down}
        self._writers |= ours

        async def forward() -> None:
            while True:
                command = await read_value(reader)
                self.commands.append(command)
                asked.put_nowait(command)
                down.write(packed(command))

        async def back() -> None:
            while True:
                answer = await read_value(up)
                # A message of a channel answers nothing.
                if not (isinstance(answer, list) and answer[:1] == [b"message"]):
                    command = await asked.get()
                    if self.lie is not None and (told := self.lie(command, answer)) is not answer:
                        writer.write(told if isinstance(told, Raw) else packed(told))
                        continue
                writer.write(packed(answer))

        tasks = [asyncio.create_task(forward()), asyncio.create_task(back())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writers -= ours
            for each in ours:
                each.close()


class Said(bytes):
    """A simple string or an error, with its mark."""

    __slots__ = ()


async def read_value(reader: asyncio.StreamReader) -> Any:
    """One value of RESP2. Raises EOFError."""
    line = (await reader.readuntil(b"\r\n"))[:-2]
    mark, rest = line[:1], line[1:]
    if mark == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if mark == b"*":
        return None if rest == b"-1" else [await read_value(reader) for _ in range(int(rest))]
    return int(rest) if mark == b":" else Said(line)


def packed(value: Any) -> bytes:
    """As it goes over the wire."""
    match value:
        case None:
            return b"$-1\r\n"
        case Said():
            return bytes(value) + b"\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case _:
            return b"*%d\r\n%b" % (len(value), b"".join(map(packed, value)))


def runs(command: list[bytes], script: str) -> bool:
    """Whether the command runs this script."""
    return command[0].upper() == b"EVAL" and command[1] == script.encode()
