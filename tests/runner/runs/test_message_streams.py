"""Messages of the MCP SDK over a socket: whole lines whatever is cancelled, and no line without a bound."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from pydantic import TypeAdapter

from cloned_proxy.runner.runs import message_streams
from cloned_proxy.runner.runs.byte_streams import SocketReceiver, SocketSender
from cloned_proxy.runner.runs.message_streams import MessageReader, MessageWriter
from cloned_proxy.runner.values.errors import SandboxError, ToolLimitError


@dataclass
class Message:
    """As `mcp.shared.message.SessionMessage`, whose message is a model of pydantic."""

    message: Any

    @classmethod
    def of(cls, text: str) -> Message:
        return cls(type("Model", (), {"model_dump_json": lambda _, **__: json.dumps(text)})())


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and the server's."""
    monkeypatch.setattr(message_streams, "_session_message", lambda: (Message, TypeAdapter(Any)))
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


async def test_a_message_whose_sending_is_cancelled_reaches_the_server_whole(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    near, far = sockets
    writer = MessageWriter(SocketSender(near))
    long = "x" * 5_000_000
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(writer.send, Message.of(long))
            await anyio.wait_readable(far)  # a part of it has gone
            scope.cancel()
    heard = bytearray()

    async def listen() -> None:
        receiver = SocketReceiver(far)
        async for piece in receiver:
            heard.extend(piece)

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await writer.send(Message.of("next"))
        await writer.aclose()
    assert [json.loads(line) for line in bytes(heard).splitlines()] == [long, "next"]


async def test_messages_of_several_tasks_are_not_mixed(sockets: tuple[socket.socket, socket.socket]) -> None:
    near, far = sockets
    writer = MessageWriter(SocketSender(near))
    texts = [letter * 900_000 for letter in "abc"]
    heard = bytearray()
    async with anyio.create_task_group() as group:
        for text in texts:
            group.start_soon(writer.send, Message.of(text))
        receiver = SocketReceiver(far)
        while heard.count(b"\n") < len(texts):
            heard.extend(await receiver.receive())
    assert sorted(json.loads(line) for line in bytes(heard).splitlines()) == texts


async def test_a_line_that_is_no_message_is_given_as_its_error(sockets: tuple[socket.socket, socket.socket]) -> None:
    near, far = sockets
    far.send(b'not JSON\n{"id": 1}\nwithout an end')
    far.shutdown(socket.SHUT_WR)
    ended: list[SandboxError] = []
    async with MessageReader(SocketReceiver(near), too_long=ended.append) as reader:
        read = [item async for item in reader]
    assert isinstance(read[0], ValueError)
    assert [item.message for item in read[1:]] == [{"id": 1}]
    assert ended == []


async def test_a_line_without_an_end_is_the_end_of_the_server(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = sockets
    monkeypatch.setattr(message_streams, "_LONGEST_LINE", 100_000)
    ended: list[SandboxError] = []
    reader = MessageReader(SocketReceiver(near), too_long=ended.append)
    far.send(b"x" * 100_001)
    with pytest.raises(anyio.EndOfStream):
        await reader.receive()
    assert [type(error) for error in ended] == [ToolLimitError]


def test_without_the_sdk_the_error_says_what_to_install(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    message_streams._session_message.cache_clear()

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(message_streams, "import_module", missing)
    with pytest.raises(ImportError, match="pip install mcp"):
        MessageWriter(SocketSender(sockets[0]))
