"""Plain HTTP of a tool that knows of no proxy: each request is decided under the name that was dialled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.transport.name_tags import NameTags
from tests.proxy.slots.dns import NETWORK
from tests.proxy.support import (
    HOST,
    Reply,
    allow,
    upstream,
    world,
)
from tests.proxy.tunnel.dialled import OTHER, TOOL, Slot, slot


def get(host: str, path: str = "/", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        body = head.split(b" ")[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@contextlib.asynccontextmanager
async def web(**rule: object) -> AsyncIterator[Slot]:
    async with upstream(_answer) as server, world(allow(HOST, server.port, **rule)) as w:
        tags = NameTags(NETWORK)
        await w.gate.open(Listener(bind_tcp(str(tags.address_of(HOST)), server.port), TOOL, "slot", tags))
        yield Slot(w, server, tags, server.port)


async def test_plain_http_is_forwarded_and_each_request_of_a_connection_is_decided() -> None:
    from cloned_proxy.policy.paths.path import parse_path_pattern  # noqa: PLC0415

    async with web(methods=frozenset({"GET"}), paths=(parse_path_pattern("/open/**"),)) as s:
        reader, writer = await s.dial()
        host = f"{HOST}:{s.port}"
        writer.write(get(host, "/open/1") + get(host, "/open/2") + get(host, "/closed"))
        for number in (1, 2):
            assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(7) == b"/open/%d" % number
        refused = Reply.read(await reader.readuntil(b"}\n"))
        assert (refused.status, refused.json["reason"], refused.json["host"]) == (403, "path_not_allowed", HOST)
        writer.close()
        await s.w.settled()
        assert [event[3] for event in s.events] == ["allowed", "allowed", "path_not_allowed"]


@pytest.mark.parametrize(
    "host",
    [OTHER, f"{HOST}:1", HOST, "127.0.0.1", f"{HOST}.evil.example"],
    ids=["name", "port", "no port", "ip", "tail"],
)
async def test_a_host_that_was_not_dialled_is_refused(host: str) -> None:
    async with web() as s:
        reply = Reply.read(await s.ask(get(host)))
        assert (reply.status, reply.json["reason"]) == (400, "host_header_mismatch")
        assert s.server.connections == 0
        assert s.events[0][:2] == (HOST, s.port)


@pytest.mark.parametrize(
    "head",
    [
        f"GET http://{OTHER}/ HTTP/1.1\r\nHost: {OTHER}\r\n\r\n",
        f"CONNECT {OTHER}:443 HTTP/1.1\r\nHost: {OTHER}:443\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: {OTHER}\r\n\r\n",
    ],
    ids=["absolute", "CONNECT", "no Host", "two Hosts"],
)
async def test_it_is_no_proxy_and_no_lenient_reader(head: str) -> None:
    async with web() as s:
        said = await s.ask(head.encode())
        assert said == b"reset" or said.startswith(b"HTTP/1.1 400 ")
        assert s.server.connections == 0


async def test_a_denied_name_by_http_gets_the_403_with_its_reason() -> None:
    async with slot() as s:
        reply = Reply.read(await s.ask(get(f"{OTHER}:{s.port}", more="Connection: close\r\n"), OTHER))
        assert (reply.status, reply.json["reason"], reply.json["port"]) == (403, "host_not_allowed", s.port)
