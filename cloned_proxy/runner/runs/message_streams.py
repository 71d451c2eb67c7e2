"""A session's byte streams as the MCP SDK's `ClientSession` wants them: a JSON-RPC message a line, both ways.

Model Context Protocol, "Transports", stdio. They do what `mcp.client.stdio.stdio_client` does, with two differences: a
line has a bound, and a message whose sending is cancelled half-way is sent to its end before the next one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Self, get_type_hints

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import TypeAdapter

from cloned_proxy.runner.runs.byte_streams import SocketReceiver, SocketSender
from cloned_proxy.runner.values.errors import SandboxError, ToolLimitError

_LONGEST_LINE: Final = 64 * 1024 * 1024


@functools.cache
def _session_message() -> tuple[Any, TypeAdapter[Any]]:
    """The SDK's class for a message with its metadata, and the reader of the message alone."""
    try:
        kind = import_module("mcp.shared.message").SessionMessage
    except ModuleNotFoundError as error:
        raise ImportError("the MCP SDK is not installed: `pip install mcp`") from error
    return kind, TypeAdapter(get_type_hints(kind)["message"])


class _Stream:
    """The part that both directions share: `async with`."""

    async def aclose(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class MessageReader(_Stream):
    """Messages from the server. A line that is none is given as the exception that it caused, as the SDK expects."""

    def __init__(self, stdout: SocketReceiver, *, too_long: Callable[[SandboxError], None]) -> None:
        self._kind, self._adapter = _session_message()
        self._stdout = stdout
        self._lines = BufferedByteReceiveStream(stdout)
        self._too_long = too_long

    async def receive(self) -> Any:
        """The next `SessionMessage`, or an exception as a value. Raises anyio.EndOfStream."""
        try:
            line = await self._lines.receive_until(b"\n", _LONGEST_LINE)
        except anyio.IncompleteRead as error:
            raise anyio.EndOfStream from error
        except anyio.DelimiterNotFound as error:
            self._too_long(
                ToolLimitError(f"the server sent a line of more than {_LONGEST_LINE >> 20} MiB and was killed")
            )
            raise anyio.EndOfStream from error
        try:
            return self._kind(self._adapter.validate_json(line, by_name=False))
        except ValueError as error:
            return error

    async def aclose(self) -> None:
        await self._stdout.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class MessageWriter(_Stream):
    """Messages to the server."""

    def __init__(self, stdin: SocketSender) -> None:
        _session_message()
        self._stdin = stdin
        self._turn = anyio.Lock()
        self._unsent = memoryview(b"")

    async def send(self, item: Any, /) -> None:
        """One `SessionMessage`. Raises anyio.BrokenResourceError when the server reads no more."""
        text: str = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        async with self._turn:
            await self._flush()
            self._unsent = memoryview(text.encode() + b"\n")
            await self._flush()

    async def aclose(self) -> None:
        await self._stdin.aclose()

    async def _flush(self) -> None:
        while self._unsent:
            self._unsent = self._unsent[await self._stdin.send_some(self._unsent) :]
