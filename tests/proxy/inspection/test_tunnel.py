"""An opened CONNECT: real TLS on both sides, each request decided again."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme
import websockets
from websockets.asyncio.server import ServerConnection, serve

from cloned_proxy.proxy.inspection.certificates.ca import certificate_path, install_hint
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until

CLOSE = "Connection: close\r\n"


@pytest.fixture(autouse=True)
def _only_some_paths(world: World) -> None:
    world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))


async def test_an_allowed_path_passes_and_is_verified_end_to_end(world: World) -> None:
    answer = await world.talk(world.get("/ok/1", CLOSE))
    assert answer.endswith(b"\r\n\r\nok")
    assert world.upstream.text.startswith(f"GET /ok/1 HTTP/1.1\r\nhost: api.test:{world.upstream.port}\r\n")
    assert world.audit.reasons == ["allowed"]
    assert [end.cause for end in world.audit.ends] == ["closed"]
    assert world.resolver.asked == ["api.test"]  # by the CONNECT, and never again


async def test_another_path_is_refused_inside_the_tls(world: World) -> None:
    answer = await world.talk(world.get("/secret", CLOSE))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] == "path_not_allowed"
    assert not world.upstream.connections


@pytest.mark.parametrize("host", ["evil.test", "api.test", "api.test:1"])
async def test_an_inner_host_that_is_not_the_connect_host_is_refused_and_recorded(world: World, host: str) -> None:
    answer = await world.talk(world.get("/ok/1", CLOSE).replace(world.authority.encode(), host.encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert world.audit.reasons[-1] == "host_header_mismatch"
    assert not world.upstream.connections


async def test_fields_are_stripped_inside_the_tls_too(world: World) -> None:
    extra = "Proxy-Authorization: Basic AAAA\r\nX-Cloned-Tool: x\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n"
    await world.talk(world.get("/ok/1", extra))
    sent = world.upstream.text.lower()
    assert sent.startswith("get /ok/1 ")
    assert not any(name in sent for name in ("proxy-", "x-cloned", "x-mine"))


async def test_a_second_request_of_the_tunnel_is_decided_again(world: World) -> None:
    answer = await world.talk(world.get("/ok/1") + world.get("/secret", CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 403 " in answer
    assert "/secret" not in world.upstream.text


async def test_http2_is_not_offered_and_its_preface_is_refused(world: World) -> None:
    reader, writer = await world.connect()
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    async with asyncio.timeout(3):
        assert (await reader.read(65536)).startswith(b"HTTP/1.1 400 ")
    writer.transport.abort()


async def test_an_upstream_with_a_certificate_that_nobody_vouches_for_is_502(world: World) -> None:
    await _expect_tls_failure(world, world.server_tls(ca=trustme.CA()))


async def test_an_upstream_with_a_certificate_for_another_name_is_502(world: World) -> None:
    await _expect_tls_failure(world, world.server_tls("other.test"))


async def _expect_tls_failure(world: World, context: ssl.SSLContext) -> None:
    async with await world.upstream.start(context):
        world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))
        answer = await world.talk(world.get("/ok/1", CLOSE))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b'"phase":"tls"' in answer
    assert world.upstream.text == ""


async def test_an_upstream_that_never_finishes_its_handshake_is_504(world: World) -> None:
    answered = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answered.wait()

    world.upstream.reply = silent
    async with await world.upstream.start(None):
        world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))
        answer = await world.talk(world.get("/ok/1", CLOSE))
        answered.set()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b'"phase":"tls"' in answer


async def test_a_broken_decision_in_a_tunnel_forwards_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.inspector.services, "admission", None)
    assert (await world.talk(world.get("/ok/1", CLOSE))).startswith(b"HTTP/1.1 503 ")
    assert not world.upstream.connections


async def test_a_broken_tls_session_closes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.client_tls()
    monkeypatch.setattr(world.inspector.services, "sessions", None)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await world.talk(world.get("/ok/1", CLOSE))


async def test_a_websocket_passes_and_nothing_of_it_is_kept(world: World) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0, ssl=world.server_tls()) as server:
        world.upstream.port = port = server.sockets[0].getsockname()[1]
        world.allow(rule("api.test", port))
        reader, writer = await world.connect()
        client = websockets.ClientProtocol(websockets.uri.parse_uri(f"wss://api.test:{port}/"))
        request = client.connect()
        request.headers["Proxy-Authorization-Extra"] = "1"
        writer.write(request.serialize())
        client.send_request(request)
        client.data_to_send()
        while client.handshake_exc is None and not (events := client.events_received()):
            client.receive_data(await reader.read(65536))
        assert client.handshake_exc is None
        assert events
        for size in (5, 300_000):
            client.send_binary(b"x" * size)
            writer.write(b"".join(client.data_to_send()))
            while not (events := client.events_received()):
                client.receive_data(await reader.read(65536))
        connection = world.connection
        assert connection.open_grant is not None
        assert connection.open_grant.charge.bytes_up > 300_000
        await until(lambda: not connection._buffer)
        assert connection._exchange is not None
        assert connection._exchange.pipe.size == 0
        writer.transport.abort()
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["closed"]


def test_the_ca_has_its_paths_without_mitmproxy(tmp_path: Path) -> None:
    assert certificate_path(tmp_path).name == "cloned-proxy-ca.pem"
    assert str(certificate_path(tmp_path)) in install_hint(tmp_path)


async def test_the_ca_is_made_when_it_is_needed_and_private(world: World) -> None:
    directory = world.directory / "ca"
    assert not directory.exists()
    await world.talk(world.get("/ok/1", CLOSE))
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o600}


async def test_a_ca_key_that_others_can_read_is_refused(world: World) -> None:
    world.inspector._open_authority()
    (world.directory / "ca" / "cloned-proxy-ca.key").chmod(0o644)
    world.inspector._authority = None
    with pytest.raises(ValueError, match="chmod 600"):
        world.inspector._open_authority()
