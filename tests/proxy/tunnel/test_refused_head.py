"""Whose a refused head was and what it asked for, on record; and heads that many readers refuse and this one takes."""

from __future__ import annotations

import time

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.proxy.transport.listener import names_listener
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.support import HOST, KEY, World, allow, upstream, world

TOKEN = mint_token(KEY, Claims("demo@v1", "run-1", time.time() + 3600))
CREDENTIAL = f"Proxy-Authorization: Bearer {TOKEN}\r\n"


def recorded(w: World) -> list[tuple[str | None, str, int, str, str]]:
    """Tool, host, port, method and path of each decision."""
    events = [event for event in w.audit.events if isinstance(event, DecisionEvent)]
    return [(event.tool, event.host, event.port, event.method, event.path) for event in events]


@pytest.mark.parametrize(
    ("wire", "seen"),
    [
        # needle sends it with HTTPS_PROXY set.
        (f"GET https://{HOST}/x?q HTTP/1.1\r\nHost: {HOST}\r\n{CREDENTIAL}\r\n", (HOST, 443, "GET", "/x")),
        # PHP's streams without request_fulluri.
        (f"GET /x HTTP/1.0\r\nHost: {HOST}\r\n{CREDENTIAL}\r\n", (HOST, 443, "GET", "/x")),
        (f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: other.example\r\n{CREDENTIAL}\r\n", (HOST, 443, "CONNECT", "")),
        (f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n{CREDENTIAL}X : y\r\n\r\n", (HOST, 443, "CONNECT", "")),
        (f"POST http://{HOST}/x HTTP/1.1\r\nHost: {HOST}\r\n{CREDENTIAL}Content-Length: 1, 1\r\n\r\n",
         (HOST, 80, "POST", "/x")),
        (f"GET nonsense HTTP/1.1\r\nHost: {HOST}\r\n{CREDENTIAL}\r\n", ("", 0, "", "")),
    ],
)  # fmt: skip
async def test_it_is_on_record_with_its_tool_and_host(wire: str, seen: tuple[str, int, str, str]) -> None:
    async with world() as w:
        reply = await w.ask(wire.encode())
        assert (reply.status, reply.json["tool"]) == (400, "demo@v1")
        assert recorded(w) == [("demo@v1", *seen)]


async def test_so_is_one_behind_a_request_and_one_whose_body_is_malformed() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        authority = f"{HOST}:{server.port}"
        first = f"POST http://{authority}/x HTTP/1.1\r\nHost: {authority}\r\n{CREDENTIAL}"
        await w.ask(f"{first}Transfer-Encoding: chunked\r\n\r\nno size\r\n".encode())
        denied = f"GET http://no.example/ HTTP/1.1\r\nHost: no.example\r\n{CREDENTIAL}\r\n"
        await w.ask(f"{denied}CONNECT {HOST}:443 HTTP/1.1\r\n{CREDENTIAL}\r\n".encode())
        assert recorded(w) == [
            ("demo@v1", HOST, server.port, "POST", "/x"),
            ("demo@v1", HOST, server.port, "POST", "/x"),
            ("demo@v1", "no.example", 80, "GET", "/"),
            ("demo@v1", HOST, 443, "CONNECT", ""),
        ]


@pytest.mark.parametrize(
    "credential", ["", f"Proxy-Authorization: Bearer {TOKEN[:-2]}xx\r\n", "X-Cloned-Tool: demo@v1\r\n"]
)
async def test_a_name_that_is_not_proved_is_not_on_record(credential: str) -> None:
    async with world() as w:
        await w.ask(f"GET https://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{credential}\r\n".encode())
        assert recorded(w) == [(None, HOST, 443, "GET", "/")]


async def test_a_listener_that_is_a_tool_stays_that_tool() -> None:
    async with world(principal=Principal("slot@v1")) as w:
        await w.ask(f"GET https://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert [tool for tool, *_ in recorded(w)] == ["slot@v1"]


async def test_a_host_field_that_names_the_proxy_and_none_at_all_pass_in_a_connect() -> None:
    """As ffmpeg, brz and lftp send it."""
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        own = w.listener.socket.getsockname()[1]
        for field in (f"Host: 127.0.0.1:{own}\r\n", f"Host: localhost:{own}\r\n", ""):
            reader, writer = await w.connect()
            writer.write(f"CONNECT {HOST}:{server.port} HTTP/1.1\r\n{field}\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
        for field in (f"Host: 127.0.0.1:{own + 1}\r\n", f"Host: 127.0.0.2:{own}\r\n", f"Host: other.example:{own}\r\n"):
            reply = await w.ask(f"CONNECT {HOST}:{server.port} HTTP/1.1\r\n{field}\r\n".encode())
            assert reply.fields["x-cloned-proxy-reason"] == "host_header_mismatch"
        await w.settled()


async def test_a_host_field_that_names_the_proxy_goes_no_further() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        own, authority = w.listener.socket.getsockname()[1], f"{HOST}:{server.port}"
        reader, writer = await w.connect()
        writer.write(f"GET http://{authority}/ HTTP/1.1\r\nHost: 127.0.0.1:{own}\r\n\r\n".encode())
        await reader.read(1)
        assert f"\r\nhost: {authority}\r\n" in server.received.decode().lower()
        assert str(own) not in server.received.decode()
        writer.transport.abort()


class _Arrived:
    def __init__(self, *address: object) -> None:
        self._address = address[0] if len(address) == 1 else address

    def get_extra_info(self, name: str) -> object:
        return self._address


@pytest.mark.parametrize(
    ("arrived", "host", "port", "named"),
    [
        (_Arrived("::1", 8081, 0, 0), "::1", 8081, True),
        (_Arrived("::ffff:127.0.0.1", 8081, 0, 0), "127.0.0.1", 8081, True),
        # Beyond loopback any name may lead here: that of a Compose service, say.
        (_Arrived("172.18.0.2", 8081), "cloned-proxy", 8081, True),
        (_Arrived("172.18.0.2", 8081), "172.18.0.3", 8081, False),
        (_Arrived("172.18.0.2", 8081), "cloned-proxy", 443, False),
        (_Arrived("/run/slot.sock"), "localhost", 8081, False),
    ],
)
def test_what_the_proxy_may_be_called(arrived: _Arrived, host: str, port: int, named: bool) -> None:
    assert names_listener(arrived, host, port) is named  # type: ignore[arg-type]
