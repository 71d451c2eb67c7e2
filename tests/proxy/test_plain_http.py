"""Plain HTTP through a whole gate: raw clients, raw and real servers on loopback."""

from __future__ import annotations

import asyncio

from tests.proxy.support import HOST, allow, upstream, world


def get(port: int, path: str = "/", host: str = HOST, headers: str = "", method: str = "GET") -> bytes:
    return f"{method} http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{headers}\r\n".encode()


async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def test_a_request_reaches_its_upstream_and_the_connection_is_kept() -> None:
    async with upstream(ok) as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.connect()
        for path in ("/one", "/two"):
            writer.write(get(server.port, path))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            seen = await reader.readuntil(b"\r\n\r\n")
            assert seen.startswith(b"GET %b HTTP/1.1\r\nhost: " % path.encode())
        assert server.connections == 1
        writer.close()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["closed", "closed"]
