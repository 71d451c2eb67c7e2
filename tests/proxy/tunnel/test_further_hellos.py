"""A second ClientHello through the whole gate: real servers that ask for one, real clients that send it, and a liar."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trustme

from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.tunnel import connect_tunnel
from tests.free_port import free_port
from tests.net.attacks.client_hello import client_hello
from tests.net.clients import needed
from tests.proxy.support import HOST, SERVER_HELLO, World, allow, hello, policy, until, upstream, world

EVIL: Final = "evil.example.net"
ACCESS_DENIED: Final = b"\x15\x03\x03\x00\x02\x02\x31"
RETRY: Final = (
    b"\x16\x03\x03\x00\x2e\x02\x00\x00\x2a\x03\x03"
    b"\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2"
    b"\xc8\xa8\x33\x9c\x00\x13\x01\x00"
)


@dataclass
class TlsServer:
    """OpenSSL behind Python, with one group: it asks again whoever has no key share of that."""

    port: int = 0
    names: list[str | None] = field(default_factory=list)
    """The server name of each ClientHello it took, in order."""


@contextlib.asynccontextmanager
async def tls_server(ca: trustme.CA, group: str = "secp384r1") -> AsyncIterator[TlsServer]:
    made = TlsServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ecdh_curve(group)
    ca.issue_cert(HOST, EVIL).configure_cert(context)
    context.sni_callback = lambda _, name, __: made.names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


async def lie(w: World, port: int, *, waits: bool) -> bytes:
    """The right name, and another one when the server asks again; what the client is told at the end."""
    session = os.urandom(32)
    reader, writer = await w.tunnel(port, first=client_hello([HOST], session=session, key_share=b""))
    if waits:
        assert (await reader.read(65_536)).startswith(b"\x16\x03\x03")
    writer.write(client_hello([EVIL], session=session))
    told = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(10):
            while b"\x16\x03\x03" not in told[-2000:] and (data := await reader.read(65_536)):
                told += data
    writer.transport.abort()
    return told


@pytest.mark.parametrize("waits", [True, False])
async def test_a_server_that_asks_again_gets_no_other_name(*, waits: bool) -> None:
    async with tls_server(trustme.CA(), "X25519") as server, world(allow(HOST, server.port)) as w:
        assert (await lie(w, server.port, waits=waits)).endswith(ACCESS_DENIED)
        await w.settled()
    assert EVIL not in server.names
    assert w.audit.verdicts == [("allow", "allowed"), ("deny", "sni_mismatch")]
    assert [end.cause for end in w.audit.ends] == ["refused:sni_mismatch"]


@pytest.mark.parametrize("waits", [True, False])
async def test_control_without_the_guard_the_server_goes_by_the_other_name(
    monkeypatch: pytest.MonkeyPatch, *, waits: bool
) -> None:
    monkeypatch.setattr(connect_tunnel, "HelloGuard", lambda *_: None)
    async with tls_server(trustme.CA(), "X25519") as server, world(allow(HOST, server.port)) as w:
        await lie(w, server.port, waits=waits)
        await until(lambda: EVIL in server.names)
        assert server.names[0] == HOST
    assert w.audit.verdicts == [("allow", "allowed")]


async def test_in_report_mode_another_name_is_on_record_once_and_passes() -> None:
    async with tls_server(trustme.CA(), "X25519") as server:
        current = policy(allow(HOST, server.port), mode=Mode.REPORT)
        async with world(current=current) as w:
            await lie(w, server.port, waits=True)
            await until(lambda: EVIL in server.names)
    assert w.audit.verdicts == [("allow", "allowed"), ("report", "sni_mismatch")]


S_CLIENT: Final = ("{program}", "s_client", "-quiet", "-verify_return_error", "-CAfile", "{ca}", "-servername", HOST,
                   "-proxy", "{proxy}", "-connect", "{authority}")  # fmt: skip
CURL: Final = ("{program}", "-sS", "--fail", "--max-time", "20", "--cacert", "{ca}", "-x", "http://{proxy}", "{url}")
PYTHON: Final = (sys.executable, "-c", ("import urllib.request, sys; "
                 "print(urllib.request.urlopen(sys.argv[1], timeout=20).read())"), "{url}")  # fmt: skip
NODE: Final = ("{program}", "-e", """
const [host, port] = process.argv[1].split(':'), [target, tport] = process.argv[2].split(':');
require('http').request({host, port, method: 'CONNECT', path: process.argv[2], headers: {host: process.argv[2]}})
  .on('connect', (_, socket) => require('https').get(
    {host: target, path: '/', createConnection: () => require('tls').connect({socket, servername: target})},
    (answer) => answer.on('data', (data) => process.stdout.write(data)))).end();
""", "{proxy}", "{authority}")  # fmt: skip
CLIENTS: Final = {"openssl": S_CLIENT, "curl": CURL, "python": PYTHON, "node": NODE}


@pytest.mark.parametrize("group", ["secp384r1", "X25519"])
@pytest.mark.parametrize("name", CLIENTS)
async def test_real_clients_are_asked_again_and_get_through(name: str, group: str, tmp_path: Path) -> None:
    program = needed("python3" if name == "python" else name)
    ca, pem = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(pem))
    async with tls_server(ca, group) as server, world(allow(HOST, server.port)) as w:
        proxy = "{}:{}".format(*w.address)
        authority = f"{HOST}:{server.port}"
        known = {"program": program, "ca": pem, "proxy": proxy, "authority": authority, "url": f"https://{authority}/"}
        environment = {"PATH": os.environ["PATH"], "https_proxy": f"http://{proxy}", "SSL_CERT_FILE": str(pem),
                       "NODE_EXTRA_CA_CERTS": str(pem)}  # fmt: skip
        command = [part if name == "node" and "\n" in part else part.format(**known) for part in CLIENTS[name]]
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        said, errors = await client.communicate(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert b"hello" in said, errors
        await w.settled()
    assert server.names == [HOST] * (2 if group == "secp384r1" else 1)
    assert w.audit.verdicts == [("allow", "allowed")]


async def test_a_hello_in_part_is_waited_for_no_longer_than_the_first() -> None:
    async def asks_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(hello()))
        writer.write(RETRY)
        await reader.read()

    async with upstream(asks_again) as server, world(allow(HOST, server.port), client_hello_timeout=0.2) as w:
        reader, writer = await w.tunnel(server.port)
        assert await reader.readexactly(len(RETRY)) == RETRY
        await asyncio.sleep(0.4)  # a client that says nothing may do so
        writer.write(hello()[:100])
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["refused:protocol_not_allowed"]
    assert w.audit.ends[0].bytes_up == len(hello())


async def test_a_client_that_leaves_in_a_further_hello_leaves_nothing_of_it_upstream() -> None:
    received = bytearray()

    async def asks_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readexactly(len(hello())))
        writer.write(RETRY)
        received.extend(await reader.read())

    async with upstream(asks_again) as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(RETRY))
        writer.write(hello()[:100])
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        await w.settled()
    assert len(received) == len(hello())


async def test_what_was_held_goes_on_when_the_server_has_taken_a_hello() -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(hello()))
        await go.wait()
        writer.write(SERVER_HELLO)
        writer.write(await reader.readexactly(4))

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        writer.write(b"\x16\x03\x03\x00")
        await asyncio.sleep(0.05)
        go.set()
        assert (await reader.read()) == SERVER_HELLO + b"\x16\x03\x03\x00"
        writer.close()


async def test_early_data_in_bulk_stays_off_the_pump_until_the_server_has_spoken() -> None:
    early = b"\x17\x03\x03\x3e\x80" + b"e" * 16_000
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(hello()) + 100 * len(early))
        await go.wait()
        writer.write(SERVER_HELLO)
        await reader.readexactly(100 * len(early))
        writer.write(b"all")

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        splicer = w.gate._splicer
        assert splicer is not None
        reader, writer = await w.tunnel(server.port)
        for _ in range(100):
            writer.write(early)
            await writer.drain()
            assert len(splicer) == 0
        go.set()
        await reader.readexactly(len(SERVER_HELLO))
        for _ in range(100):
            writer.write(early)
            await writer.drain()
        await until(lambda: len(splicer) == 1)
        assert await reader.read() == b"all"
        writer.close()
        await w.settled()


@pytest.mark.parametrize(("group", "fate"), [("P-384", b"rejected"), ("X25519", b"accepted")])
async def test_early_data_of_a_real_client(group: str, fate: bytes, tmp_path: Path) -> None:
    """A resumed session sends its first bytes behind its hello: the server takes them, or asks for another hello."""
    program = needed("openssl")
    trustme.CA().issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    (tmp_path / "early").write_bytes(b"early " * 20)
    port = free_port()
    server = await run(program, "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(tmp_path / "server.pem"),
                       "-groups", group, "-early_data", "-no_anti_replay")  # fmt: skip
    try:
        await said_by(server, b"ACCEPT")
        async with world(allow(HOST, port)) as w:
            proxy, said = "{}:{}".format(*w.address), b""
            for session in (("-sess_out", "s"), ("-sess_in", "s", "-early_data", "early")):
                client = await run(program, "s_client", "-proxy", proxy, "-connect", f"{HOST}:{port}",
                                   "-servername", HOST, "-groups", "X25519:P-384", *session, cwd=tmp_path)  # fmt: skip
                writing = client.stdin
                assert writing is not None
                writing.write(b"a line\n")
                await said_by(server, b"a line\n")
                writing.write(b"Q\n")
                said, _ = await client.communicate()
            assert b"Early data was " + fate in said
            await w.settled()
        assert w.audit.verdicts == [("allow", "allowed")] * 2
    finally:
        server.kill()
        await server.communicate()


async def run(*command: str, cwd: Path | None = None) -> asyncio.subprocess.Process:
    pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=out, cwd=cwd)


async def said_by(program: asyncio.subprocess.Process, what: bytes) -> None:
    assert program.stdout is not None
    async with asyncio.timeout(60):
        await program.stdout.readuntil(what)
