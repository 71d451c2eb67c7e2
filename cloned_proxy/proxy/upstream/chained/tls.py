"""TLS on the way to the proxy in front.

Everything behind works on sockets: relays, splicing, the inspection's own TLS. So the decrypted side is one as well:
this end of a pair on loopback, joined with the TLS connection for as long as either lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import structlog

from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError

_log = structlog.get_logger(__name__)

_PIECE: Final = 65_536
_AFTER_FIN: Final = 4.0
"""Seconds of silence that end the connection when this side has nothing more to say: TLS here has no half-close."""

_joined: Final[set[asyncio.Task[None]]] = set()
"""The loop itself keeps only a weak reference."""


async def secure_connection(
    addresses: Sequence[Address], port: int, name: str, context: ssl.SSLContext
) -> socket.socket:
    """Connects to the first address that answers and verifies `name`. Raises UpstreamProxyError."""
    failure = UpstreamProxyError(Trouble.UNREACHABLE, "the upstream proxy has no address")
    for address in addresses:
        try:
            reader, writer = await asyncio.open_connection(str(address), port, ssl=context, server_hostname=name)
        except ssl.SSLError as error:
            _log.warning("the TLS of the upstream proxy does not hold", reason=error.reason or type(error).__name__)
            failure = UpstreamProxyError(Trouble.TLS, "the upstream proxy cannot be verified")
        except OSError as error:
            failure = UpstreamProxyError(Trouble.UNREACHABLE, "the upstream proxy cannot be reached")
            failure.__cause__ = error
        else:
            return await _local_end(reader, writer)
    raise failure


async def _local_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> socket.socket:
    try:
        ours, theirs = _pair()
    except OSError as error:
        writer.transport.abort()
        raise UpstreamProxyError(Trouble.UNREACHABLE, "no socket for the upstream proxy") from error
    try:
        local = await asyncio.open_connection(sock=theirs)
    except BaseException:
        ours.close()
        writer.transport.abort()
        raise
    task = asyncio.get_running_loop().create_task(_join(local, (reader, writer)))
    _joined.add(task)
    task.add_done_callback(_joined.discard)
    return ours


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two joined TCP sockets, non-blocking: unlike a `socketpair` they can tell a reset from an end. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listening:
        listening.setblocking(False)
        ours = socket.socket()
        try:
            ours.setblocking(False)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                ours.connect(listening.getsockname())
            while True:
                theirs, peer = listening.accept()
                if peer == ours.getsockname():
                    theirs.setblocking(False)
                    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return ours, theirs
                theirs.close()  # another program of this machine, quicker than ourselves
        except BaseException:
            ours.close()
            raise


type _Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(local: _Streams, front: _Streams) -> None:
    """Until the proxy has ended or broken off, or this side has, and nothing comes any more."""
    progress = _Progress()
    down = asyncio.ensure_future(_copy(front[0], local[1], progress))
    up = asyncio.ensure_future(_copy(local[0], front[1], progress))
    try:
        await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
        if not down.done() and up.exception() is None:
            await _fall_silent(down, progress)
        broken = any(one.done() and one.exception() is not None for one in (down, up))
    except asyncio.CancelledError:
        broken = True
        raise
    finally:
        for one in (down, up):
            one.cancel()
        await asyncio.gather(down, up, return_exceptions=True)
        if broken:
            reset(local[1].transport)
            front[1].transport.abort()
        else:
            local[1].close()
            front[1].close()


class _Progress:
    def __init__(self) -> None:
        self.bytes = 0


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, progress: _Progress) -> None:
    while data := await reader.read(_PIECE):
        progress.bytes += len(data)
        writer.write(data)
        await writer.drain()


async def _fall_silent(down: asyncio.Future[None], progress: _Progress) -> None:
    seen = -1
    while not down.done() and progress.bytes != seen:
        seen = progress.bytes
        await asyncio.wait((down,), timeout=_AFTER_FIN)
