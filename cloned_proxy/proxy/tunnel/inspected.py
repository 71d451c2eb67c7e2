"""A tunnel that is opened: its connection goes to the inspector, and comes back with a cause."""

from __future__ import annotations

import asyncio

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.transport.linger import LINGER_SECONDS
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel


async def serve_inspected(tunnel: OpenTunnel, inspector: Inspector) -> None:
    """Until it ends, which is told to the tunnel once, with the cause that goes on record."""
    client, cause = tunnel.client, Reason.INTERNAL_ERROR.value
    try:
        tunnel.count()
        reader, writer = _streams(client)
        try:
            await inspector.serve_tunnel(tunnel.grant, reader, writer)
        finally:
            _release(client)
        cause = client.cause or "closed"
    except asyncio.CancelledError:
        cause = client.cause or "client_reset"
        raise
    finally:
        tunnel.end(cause)


def _streams(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """For the inspection; the reader starts with what was read but not used."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    client.streamed = True
    client.transport.set_protocol(protocol)
    protocol.connection_made(client.transport)
    # Running again before the bytes are fed: a full reader pauses the transport by itself.
    client.read_on()
    reader.feed_data(client.take())
    return reader, asyncio.StreamWriter(client.transport, protocol, reader, loop)


def _release(client: Client) -> None:
    """What the inspection wrote may still go out, but not for long."""
    if not client.lost:
        client.transport.close()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, client.transport.abort)
