"""Answers DNS on a slot's 127.0.0.1:53, by UDP and TCP. It has no socket to the outside: nothing can be asked there."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from cloned_proxy.proxy.slots.dns_message import answer
from cloned_proxy.proxy.transport.name_tags import NameTags

_PER_TURN: Final = 16
"""Questions that are answered before the other connections of the process have their turn."""
_LARGEST: Final = 4096
"""Bytes of a datagram; what is longer is no question."""
_MOST_STREAMS: Final = 16
_IDLE_SECONDS: Final = 10.0
_BACKLOG: Final = 64
_SIZE: Final = struct.Struct("!H")
"""RFC 7766, section 8: the length in front of each message."""


class NameServer:
    """For one slot, on the event loop. The sockets belong to it."""

    def __init__(self, tags: NameTags, datagrams: socket.socket, streams: socket.socket) -> None:
        self._tags = tags
        self._datagrams = datagrams
        self._listening = streams
        self._server: asyncio.Server | None = None
        self._open: set[_DnsStream] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            partial(_DnsStream, self._reply, self._open), sock=self._listening, backlog=_BACKLOG
        )
        self._datagrams.setblocking(False)
        loop.add_reader(self._datagrams.fileno(), self._readable)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            asyncio.get_running_loop().remove_reader(self._datagrams.fileno())
        self._listening.close()
        self._datagrams.close()
        for stream in tuple(self._open):
            stream.cut()

    def _reply(self, message: bytes) -> bytes | None:
        return answer(message, self._tags.exists, self._tags.address_of)

    def _readable(self) -> None:
        for _ in range(_PER_TURN):
            try:
                message, peer = self._datagrams.recvfrom(_LARGEST)
                if (reply := self._reply(message)) is not None:
                    self._datagrams.sendto(reply, peer)
            except BlockingIOError:
                return
            except OSError:
                continue  # a client that is gone, told by ICMP


class _DnsStream(asyncio.Protocol):
    """One TCP connection: any number of questions, answered in order. One that does not read is not read."""

    def __init__(self, reply: Callable[[bytes], bytes | None], streams: set[_DnsStream]) -> None:
        self._reply = reply
        self._streams = streams
        self._buffer = bytearray()
        self._full = False
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._streams) >= _MOST_STREAMS:
            self._transport.abort()
            return
        self._streams.add(self)
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer_what_is_there()

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._transport.resume_reading()
        self._answer_what_is_there()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self._streams.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def cut(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._transport.abort)

    def _answer_what_is_there(self) -> None:
        buffer = self._buffer
        at = 0
        while not self._full and len(buffer) >= at + _SIZE.size:
            end = at + _SIZE.size + _SIZE.unpack_from(buffer, at)[0]
            if len(buffer) < end:
                break
            reply = self._reply(bytes(buffer[at + _SIZE.size : end]))
            if reply is None:
                self._transport.abort()
                return
            self._transport.write(_SIZE.pack(len(reply)) + reply)
            at = end
        if at:
            del buffer[:at]
            self._wait()
