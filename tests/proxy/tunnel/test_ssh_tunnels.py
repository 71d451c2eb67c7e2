"""`protocols: [ssh]` on the gate: both sides identify themselves, and nothing else passes."""

from __future__ import annotations

import asyncio

import pytest

from cloned_proxy.policy.terms.vocabulary import Mode
from tests.proxy.support import HOST, Handler, World, allow, hello, policy, upstream, world

SSH = {"only_ssh": True}
CLIENT, SERVER = b"SSH-2.0-OpenSSH_9.2p1\r\n", b"SSH-2.0-dropbear_2022.83\r\n"
BLOB = bytes(range(256)) * 4096


def server_of(greeting: bytes, *, waits: bool = False) -> Handler:
    """Greets, at once or when it has been greeted; then sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not waits:
            writer.write(greeting)
        assert await reader.readline() == CLIENT
        if waits:
            writer.write(greeting)
        while data := await reader.read(65_536):
            writer.write(data)
        writer.write_eof()
        await writer.drain()
        await asyncio.sleep(0)

    return serve


@pytest.mark.parametrize("waits", [False, True], ids=["the server speaks first", "the server waits"])
@pytest.mark.parametrize("first", ["at once", "when greeted", "byte by byte"])
async def test_ssh_passes_whoever_speaks_first(waits: bool, first: str) -> None:
    async with upstream(server_of(SERVER, waits=waits)) as server, world(allow(HOST, server.port, **SSH)) as w:
        reader, writer = await w.tunnel(server.port, first=CLIENT + b"key exchange" if first == "at once" else b"")
        if first == "when greeted" and not waits:
            assert await reader.readline() == SERVER
        if first == "byte by byte":
            for byte in CLIENT + b"key exchange":
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
        elif first == "when greeted":
            writer.write(CLIENT + b"key exchange")
        if first != "when greeted" or waits:
            assert await reader.readline() == SERVER
        assert await reader.readexactly(12) == b"key exchange"
        writer.write(BLOB)
        assert await reader.readexactly(len(BLOB)) == BLOB
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await w.settled()
        assert w.audit.verdicts == [("allow", "allowed")]
        assert [end.cause for end in w.audit.ends] == ["closed"]


async def test_lines_before_a_servers_identification_pass_with_it() -> None:
    async with (
        upstream(server_of(b"Maintenance at ten\r\n" + SERVER)) as server,
        world(allow(HOST, server.port, **SSH)) as w,
    ):
        reader, writer = await w.tunnel(server.port, first=CLIENT)
        assert await reader.readline() == b"Maintenance at ten\r\n"
        assert await reader.readline() == SERVER
        writer.close()


REFUSED = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 403 protocol_not_allowed: its rule lets SSH pass"),
    "TLS": (hello(), b"\x15\x03\x03\x00\x02\x02\x31"),
    "a word": (b"HELO\r\n", b""),
    "one byte": (b"\0", b""),
    "a line first": (b"hello\r\n" + CLIENT, b""),
}


@pytest.mark.parametrize(("sent", "told"), REFUSED.values(), ids=REFUSED.keys())
async def test_nothing_else_of_a_client_reaches_the_server(sent: bytes, told: bytes) -> None:
    async with upstream() as server, world(allow(HOST, server.port, **SSH)) as w:
        reader, writer = await w.tunnel(server.port, first=sent)
        if told:
            assert (await reader.read()).startswith(told)
        else:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.transport.abort()
        await w.settled()
        assert w.audit.verdicts[-1] == ("deny", "protocol_not_allowed")
        assert [end.cause for end in w.audit.ends] == ["refused:protocol_not_allowed"]
    assert server.received == b""


async def test_what_is_behind_the_identification_waits_for_the_servers() -> None:
    """A server of another protocol that skips a line which it does not know gets that line and nothing more."""
    came = bytearray()

    async def answers_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.extend(await reader.readline())
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000)
        came.extend(await reader.read())

    async with upstream(answers_http) as server, world(allow(HOST, server.port, **SSH)) as w:
        reader, writer = await w.tunnel(server.port, first=CLIENT + b"GET /secret HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
        writer.transport.abort()
        await w.settled()
        assert w.audit.verdicts[-1] == ("deny", "protocol_not_allowed")
    assert bytes(came) == CLIENT


async def test_what_a_client_sends_to_a_server_that_says_nothing_is_bounded() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.read()

    async with upstream(silent) as server, world(allow(HOST, server.port, **SSH)) as w:
        reader, writer = await w.tunnel(server.port, first=CLIENT + bytes(70_000))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()
        await w.settled()
        assert w.audit.ends[0].bytes_up == len(CLIENT)


async def test_a_client_that_says_nothing_is_cut_and_a_server_may_take_its_time() -> None:
    async with (
        upstream(server_of(SERVER)) as server,
        world(allow(HOST, server.port, **SSH), client_hello_timeout=0.05) as w,
    ):
        reader, writer = await w.tunnel(server.port, first=b"")
        assert await reader.readline() == SERVER
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()
        await w.settled()
        assert w.audit.verdicts[-1] == ("deny", "protocol_not_allowed")


async def _open(w: World, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await w.tunnel(port, first=CLIENT)
    assert await reader.readline() == SERVER
    return reader, writer


async def test_an_open_flow_of_ssh_stays_and_one_of_anything_goes_when_its_rule_becomes_ssh() -> None:
    async with upstream(server_of(SERVER)) as server, world(allow(HOST, server.port, **SSH)) as w:
        reader, writer = await _open(w, server.port)
        w.gate.tunnels.sweep()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        w.policies.current = policy(allow(HOST, server.port))
        w.gate.tunnels.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        w.policies.current = policy(allow(HOST, server.port, raw_tcp=True))
        reader, writer = await _open(w, server.port)
        w.policies.current = policy(allow(HOST, server.port, **SSH))
        w.gate.tunnels.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_report_mode_lets_it_pass_and_records_it() -> None:
    async with upstream() as server, world(current=policy(allow(HOST, server.port, **SSH), mode=Mode.REPORT)) as w:
        reader, writer = await w.tunnel(server.port, first=b"HELO a\r\n")
        assert await reader.readexactly(8) == b"HELO a\r\n"
        writer.close()
        assert ("report", "protocol_not_allowed") in w.audit.verdicts


async def test_plain_http_does_not_pass_under_a_rule_for_ssh() -> None:
    async with upstream() as server, world(allow(HOST, server.port, **SSH)) as w:
        request = f"GET http://{HOST}:{server.port}/ HTTP/1.1\r\nHost: {HOST}:{server.port}\r\n"
        request += "Connection: close\r\n\r\n"
        assert (await w.ask(request.encode())).fields["x-cloned-proxy-reason"] == "protocol_not_allowed"
        assert server.connections == 0
