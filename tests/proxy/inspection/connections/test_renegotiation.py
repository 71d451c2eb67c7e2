"""A client of opened TLS 1.2 that asks to renegotiate: it is told no at once, and its questions are kept nowhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from OpenSSL import SSL

from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority
from cloned_proxy.proxy.inspection.certificates.tls import Sessions
from cloned_proxy.proxy.inspection.connections.bounds import UNSENT
from cloned_proxy.proxy.inspection.connections.streams import ClientWriter
from cloned_proxy.proxy.inspection.connections.tls import TlsStream


class Wire(asyncio.StreamWriter):
    """What is written on it lies there; `unsent` of it, as the transport says."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.unsent = 0

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self  # type: ignore[return-value]  # the two things that are asked of it

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.sent += data

    async def drain(self) -> None:
        """It takes everything."""

    def take(self) -> bytes:
        sent = bytes(self.sent)
        self.sent.clear()
        return sent

    def __del__(self) -> None:
        """There is no transport to be closed."""


@pytest.fixture
async def opened(tmp_path: Path) -> tuple[TlsStream, asyncio.StreamReader, Wire, SSL.Connection]:
    """Our end behind its handshake, what feeds it, what it writes on, and the client."""
    sessions = Sessions(lambda: CertificateAuthority.open(tmp_path / "ca"))
    reader, wire = asyncio.StreamReader(), Wire()
    ours = TlsStream(sessions.accepting("a.example"), reader, ClientWriter(wire))
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client = SSL.Connection(context)
    client.set_connect_state()
    task = asyncio.create_task(ours.handshake())
    while True:
        try:
            client.do_handshake()
        except SSL.WantReadError:
            reader.feed_data(client.bio_read(65_536))
            await asyncio.sleep(0)
            while not wire.sent:  # noqa: ASYNC110  the other end of a pipe without events
                await asyncio.sleep(0)
            client.bio_write(wire.take())
        else:
            break
    await task
    return ours, reader, wire, client


def asks_again(client: SSL.Connection) -> bytes:
    """The record in which the client asks."""
    client.renegotiate()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(65_536)


async def test_a_renegotiation_is_refused_at_once(
    opened: tuple[TlsStream, asyncio.StreamReader, Wire, SSL.Connection],
) -> None:
    ours, reader, wire, client = opened
    reader.feed_data(asks_again(client))
    reading = asyncio.create_task(ours.read())
    for _ in range(5):
        await asyncio.sleep(0)
    client.bio_write(wire.take())
    with pytest.raises(SSL.Error, match="no renegotiation"):
        client.do_handshake()
    reading.cancel()


async def test_who_asks_on_and_reads_nothing_is_ended(
    opened: tuple[TlsStream, asyncio.StreamReader, Wire, SSL.Connection],
) -> None:
    ours, reader, wire, client = opened
    reader.feed_data(asks_again(client))
    wire.unsent = UNSENT + 1
    with pytest.raises(ConnectionAbortedError):
        async with asyncio.timeout(60):
            await ours.read()
    assert ours.dead
