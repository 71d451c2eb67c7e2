"""A client of HTTP/1.1 whose upstream speaks HTTP/2 alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from OpenSSL import SSL

from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from tests.proxy.inspection.http2.peers import Message, Upstream2, UpstreamPeer
from tests.proxy.inspection.support import World, exchange, rule
from tests.proxy.support import until


class _Wire:
    """Reader and writer of one connection whose TLS refuses everything but HTTP/2, as Go's and nginx's does."""

    def __init__(self, tls: TlsStream, writer: asyncio.StreamWriter) -> None:
        self._tls = tls
        self.transport = writer.transport

    async def read(self, _: int) -> bytes:
        return await self._tls.read()

    def write(self, data: bytes) -> None:
        self._tls.write(data)

    async def drain(self) -> None:
        await self._tls.drain()


def _only_http2(_: SSL.Connection, offers: list[bytes]) -> bytes:
    """An error is the alert; pyOpenSSL has no other way to it."""
    if b"h2" not in offers:
        raise SSL.Error("no application protocol")
    return b"h2"


def _silent(_: SSL.Connection, offers: list[bytes]) -> Any:
    """No alert: the handshake ends without a version, and the server begins in its own."""
    return b"h2" if b"h2" in offers else SSL.NO_OVERLAPPING_PROTOCOLS


@pytest.fixture(params=[_only_http2, _silent, None], ids=["alert", "no alert", "no ALPN"])
async def strict(request: pytest.FixtureRequest, h2: World, upstream: Upstream2) -> AsyncIterator[Upstream2]:
    """An upstream of HTTP/2 alone, in place of that of the world."""
    leaf = h2.ca.issue_cert("api.test")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()))
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    assert isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey)
    context.use_privatekey(key)
    if request.param is not None:
        context.set_alpn_select_callback(request.param)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = SSL.Connection(context)
        session.set_accept_state()
        tls = TlsStream(session, reader, writer)
        with contextlib.suppress(SSL.Error, EOFError, OSError):
            await tls.handshake()
            wire: Any = _Wire(tls, writer)
            await upstream.reply(wire, wire)
        writer.close()

    upstream.serve = _repeat
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    h2.upstream.port = server.sockets[0].getsockname()[1]
    h2.allow(rule("api.test", h2.upstream.port, paths=("/ok/**",)))
    yield upstream
    server.close()


async def _repeat(peer: UpstreamPeer, stream: int, message: Message) -> None:
    await message.over.wait()
    peer.h2.send_headers(stream, [(":status", "200"), ("x-one", "1")])
    await peer.send_body(stream, bytes(message.body) or b"nothing", end=True)


async def test_its_requests_go_on_one_connection_each_decided(h2: World, strict: Upstream2) -> None:
    body = b"POST /ok/2 HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % h2.authority.encode()
    requests = h2.get("/ok/1") + body + b"3\r\nabc\r\n0\r\n\r\n" + h2.get("/no/3")
    answer = await exchange(*await h2.connect(), requests)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert b"x-one: 1\r\n" in answer
    assert b"7\r\nnothing\r\n0\r\n\r\n" in answer
    assert b"3\r\nabc\r\n0\r\n\r\n" in answer
    assert b"path_not_allowed" in answer
    assert [message.get(":path") for message in strict.requests] == ["/ok/1", "/ok/2"]
    assert {message.get(":authority") for message in strict.requests} == {h2.authority}
    assert len([peer for peer in strict.peers if peer.messages]) == 1
    assert len(strict.peers) <= 2, "HTTP/1.1 is asked for once"
    await until(lambda: len(h2.audit.ends) == 2)
    assert [end.cause for end in h2.audit.ends] == ["closed", "closed"]


async def test_a_first_request_with_a_body_arrives_whole_and_once(h2: World, strict: Upstream2) -> None:
    head = b"POST /ok/first HTTP/1.1\r\nHost: %b\r\nContent-Length: 7\r\nConnection: close\r\n\r\npayload"
    answer = await exchange(*await h2.connect(), head % h2.authority.encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"7\r\npayload\r\n0\r\n\r\n")
    assert [(message.get(":path"), bytes(message.body)) for message in strict.requests] == [("/ok/first", b"payload")]


async def test_a_large_body_waits_for_the_windows_of_the_upstream(h2: World, strict: Upstream2) -> None:
    size = 4 * 1024 * 1024
    head = b"POST /ok/up HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    reader, writer = await h2.connect()
    writer.write(h2.get("/ok/1"))  # too much is not sent twice, so what the server speaks is found out before
    received = bytearray(await reader.readuntil(b"nothing\r\n0\r\n\r\n"))
    assert received.startswith(b"HTTP/1.1 200 ")
    received.clear()
    writer.write(head % (h2.authority.encode(), size) + bytes(size))
    async with asyncio.timeout(60):
        while data := await reader.read(65_536):
            received += data
    writer.transport.abort()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n0\r\n\r\n")
    assert received.count(b"\0") == size


async def test_a_stream_that_breaks_is_502_or_does_not_look_whole(h2: World, strict: Upstream2) -> None:
    async def broken(peer: UpstreamPeer, stream: int, message: Message) -> None:
        if message.get(":path") == "/ok/late":
            peer.h2.send_headers(stream, [(":status", "200")])
            peer.h2.send_data(stream, b"half")
            peer.send()
        peer.h2.reset_stream(stream, 2)
        peer.send()

    strict.serve = broken
    assert (await exchange(*await h2.connect(), h2.get("/ok/early"))).startswith(b"HTTP/1.1 502 ")
    late = await exchange(*await h2.connect(), h2.get("/ok/late"))
    assert not late.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "body", "told"),
    [
        pytest.param([(":status", "204")], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 204 \r\n\r\n", id="204-body"),
        pytest.param([(":status", "304")], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 304 \r\n\r\n", id="304-body"),
        pytest.param([(":status", "200")], None, b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", id="empty"),
        pytest.param([(":status", "200"), ("content-length", "100")], None, b"", id="length-without-body"),
    ],
)
async def test_what_its_client_reads_as_the_next_response_is_the_next_response(
    h2: World, strict: Upstream2, head: list[tuple[str, str]], body: bytes | None, told: bytes
) -> None:
    async def serve(peer: UpstreamPeer, stream: int, message: Message) -> None:
        if message.get(":path") != "/ok/first":
            await _repeat(peer, stream, message)
            return
        peer.h2.send_headers(stream, head, end_stream=body is None)
        if body is not None:
            peer.h2.send_data(stream, body, end_stream=True)
        peer.send()

    strict.serve = serve
    answer = await exchange(*await h2.connect(), h2.get("/ok/first") + h2.get("/ok/2", "Connection: close\r\n"))
    if told:
        second = b"HTTP/1.1 200 \r\nx-one: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert answer == told + second + b"7\r\nnothing\r\n0\r\n\r\n"
    else:
        assert answer.startswith(b"HTTP/1.1 502 ")


async def test_a_whole_response_before_the_end_of_its_request_reaches_its_client(h2: World, strict: Upstream2) -> None:
    async def early(peer: UpstreamPeer, stream: int, message: Message) -> None:
        if message.get(":method") == "GET":
            await _repeat(peer, stream, message)
            return
        peer.h2.send_headers(stream, [(":status", "413"), ("content-length", "9")])
        peer.h2.send_data(stream, b"too large", end_stream=True)
        peer.h2.reset_stream(stream, 0)
        peer.send()

    strict.serve = early
    reader, writer = await h2.connect()
    writer.write(h2.get("/ok/1"))  # too much is not sent twice, so what the server speaks is found out before
    await reader.readuntil(b"nothing\r\n0\r\n\r\n")
    writer.write(h2.get("/ok/up", "Content-Length: 200000\r\n", method="POST") + bytes(1000))
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"too large")
    assert answer.startswith(b"HTTP/1.1 413 ")
    writer.transport.abort()
    await until(lambda: len(h2.audit.ends) == 2)
