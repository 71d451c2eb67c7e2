"""A rule whose calls go through the front, its credential, and how a client is refused there."""

from __future__ import annotations

import asyncio
import socket
import struct

from cloned_proxy.policy.terms.rule import Rule
from tests.proxy.support import HOST, World, allow, connect_head, hello
from tests.proxy.upstream.chained.fronts import Front

AUTH = "${vault:upstream.proxy}"


def rule(**more: object) -> Rule:
    return allow(HOST, 443, **more)


async def refused(w: World, ahead: Front, *, first: bytes | None = None) -> dict[str, object]:
    """What a client that sends its ClientHello at once is told; nothing of that may have left."""
    reply = await w.ask(connect_head(443) + (hello() if first is None else first))
    await w.settled()
    assert ahead.received == b""
    assert reply.status in (502, 504)
    assert "127.0.0.1" not in reply.body.decode()
    assert "proxy-authenticate" not in reply.fields
    return {"status": reply.status, **reply.json}


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
