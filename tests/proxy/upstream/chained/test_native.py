"""What the native plane does of a tunnel through a proxy in front by itself, and what it leaves to Python.

`test_tunnels.py` runs with it and without: same bytes, same answers. Here is who did it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

import pytest

from cloned_proxy.proxy.plane.verdicts import Published
from tests.proxy.support import (  # fmt: skip
    HOST,
    LOOPBACK,
    SERVER_HELLO,
    World,
    allow,
    connect_head,
    hello,
    until,
    upstream,
    world,
)
from tests.proxy.upstream.chained.asking import AUTH, refused, rule
from tests.proxy.upstream.chained.fronts import BASIC, OPEN, TARGET, front, vault
from tests.proxy.upstream.chained.test_tunnels import LIES, PAGE

pytestmark = pytest.mark.usefixtures("native")

_HANDED_OVER: Final = 2


def published(w: World) -> list[Published]:
    assert w.plane is not None
    return list(w.plane._verdicts.known.values())


def granted(w: World) -> int:
    assert w.plane is not None
    return sum(w.plane._verdicts.counts(each)[0][0] for each in published(w))


def handed_over(w: World) -> int:
    """Connections that Python went on with."""
    assert w.plane is not None
    return w.plane._told()[_HANDED_OVER]


@pytest.mark.parametrize(
    "answer",
    [
        OPEN,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\nDate: now\r\nConnection: keep-alive\r\nX:\r\n\r\n",
    ],
)
async def test_a_plain_success_is_native_from_end_to_end(answer: bytes) -> None:
    async with (
        front(answer) as ahead,
        world(rule(), front=ahead.settings(auth=AUTH), secrets=vault(), addresses=(TARGET,)) as w,
    ):
        ahead.behind = _as_a_server
        reader, writer = await w.tunnel(443)
        assert await reader.readexactly(len(SERVER_HELLO)) == SERVER_HELLO
        writer.close()
        await w.settled()
        assert (granted(w), handed_over(w), w.metrics.connects) == (1, 0, 1)
        assert [end.cause for end in w.audit.ends] == ["closed"]
    at = f"CONNECT {TARGET}:443 HTTP/1.1\r\nHost: {TARGET}:443\r\n"
    assert ahead.heads == [f"{at}Proxy-Authorization: {BASIC}\r\n\r\n".encode()]


async def _as_a_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(len(hello()))
    writer.write(SERVER_HELLO)
    await reader.read()


async def test_a_name_that_only_the_front_looks_up_is_native() -> None:
    async with front() as ahead, world(rule(addresses=frozenset()), front=ahead.settings(resolve="upstream")) as w:
        _, writer = await w.tunnel(443)
        writer.close()
        await w.settled()
        assert granted(w) == 1
    assert ahead.heads[0].startswith(b"CONNECT api.example.com:443 ")


async def test_what_no_proxy_names_is_native_and_direct() -> None:
    async with front() as ahead, upstream() as server:
        direct = allow(HOST, server.port)
        async with world(direct, front=ahead.settings(no_proxy=[HOST]), addresses=(LOOPBACK,)) as w:
            _, writer = await w.tunnel(server.port)
            writer.close()
            await w.settled()
            assert (granted(w), server.connections) == (1, 1)
    assert ahead.heads == []


@pytest.mark.parametrize("lie", [name for name in LIES if name != "nothing"])
async def test_python_judges_whatever_is_no_plain_success(lie: str) -> None:
    async with front(LIES[lie][0]) as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        await refused(w, ahead)
        assert (granted(w), handed_over(w), len(ahead.heads)) == (1, 1, 1)


@pytest.mark.parametrize("behind", [b"", b"HTTP/1.1 2", OPEN[:-1]])
async def test_a_front_that_breaks_off_in_its_answer_is_502(behind: bytes) -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        await until(lambda: handed_over(w) == bool(behind))  # what it said before has been seen
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with (
        front(behind, behind=reset) as ahead,
        world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w,
    ):
        told = await refused(w, ahead)
        assert (told["status"], told["phase"], w.troubles) == (502, "upstream_proxy", ["unreachable"])
        assert granted(w) == 1


async def test_half_a_head_and_then_the_other_half_opens_the_tunnel() -> None:
    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await until(lambda: handed_over(w) == 1)
        writer.write(OPEN[20:])
        await ahead.record_and_echo(reader, writer)

    async with (
        front(OPEN[:20], behind=later) as ahead,
        world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w,
    ):
        reader, writer = await w.tunnel(443)
        await reader.readexactly(len(hello()))
        writer.close()
        await w.settled()
        assert (granted(w), w.metrics.connects) == (1, 1)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX-A"])
async def test_a_front_that_stalls_is_504_in_the_time_of_one_connection(said: bytes) -> None:
    async with (
        front(said) as ahead,
        world(rule(), front=ahead.settings(), addresses=(TARGET,), connect_timeout=0.3) as w,
    ):
        told = await refused(w, ahead)
        assert (told["status"], w.troubles, granted(w)) == (504, ["timed_out"], 1)
        await until(lambda: ahead.ended == 1)


async def test_the_credential_is_the_one_that_the_vault_has_now() -> None:
    held = vault()
    async with (
        front() as ahead,
        world(rule(), front=ahead.settings(auth=AUTH), secrets=held, addresses=(TARGET,)) as w,
    ):
        _, writer = await w.tunnel(443)
        writer.close()
        held.values = {"upstream.proxy": "corp-user:another"}
        w.gate.sweep()  # each second, and at each request that Python decides
        assert not any(each.live for each in published(w))
        for _ in range(2):
            _, writer = await w.tunnel(443)
            writer.close()
        await w.settled()
        assert granted(w) == 2  # before the change, and behind the one that Python has asked
        held.values = {}
        w.gate.sweep()
        assert (await w.ask(connect_head(443) + hello())).status == 502
        assert w.troubles == ["credential"]
    assert BASIC.encode() in ahead.heads[0]
    assert [BASIC.encode() in head for head in ahead.heads] == [True, False, False]


async def test_what_the_front_is_found_at_later_is_closed_to_tools() -> None:
    """A verdict may lead to an address at which the proxy in front turns up."""
    async with front() as ahead, upstream() as server:
        settings = ahead.settings(no_proxy=[HOST])
        async with world(allow(HOST, server.port), front=settings, addresses=(LOOPBACK,)) as w:
            assert {each.live for each in published(w)} == {True}
            assert w.ahead is not None
            w.ahead._met.add((LOOPBACK, server.port))
            w.gate.sweep()
            assert (await w.ask(connect_head(server.port) + hello())).status == 403
        assert server.connections == 0


async def test_python_asks_for_the_next_address_where_the_plane_was_told_of_an_unreachable_one() -> None:
    bad = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    other = type(TARGET)("93.184.216.11")
    async with front(bad, OPEN) as ahead, world(rule(), front=ahead.settings(), addresses=(other, TARGET)) as w:
        _, writer = await w.tunnel(443)
        writer.close()
        await w.settled()
        assert (granted(w), handed_over(w), w.troubles) == (1, 1, [])
    assert [head.split()[1] for head in ahead.heads] == [b"93.184.216.11:443", b"93.184.216.10:443"]


async def test_a_front_by_tls_is_left_to_python() -> None:
    async with front() as ahead:
        secure = ahead.settings().model_copy(update={"proxy": f"https://127.0.0.1:{ahead.port}"})
        async with world(rule(), front=secure, addresses=(TARGET,)) as w:
            assert published(w) == []


async def test_bytes_behind_the_success_are_the_tunnels_only_where_a_server_may_speak_first() -> None:
    for raw, status in ((True, 200), (False, 502)):
        async with (
            front(OPEN + PAGE) as ahead,
            world(rule(raw_tcp=raw), front=ahead.settings(), addresses=(TARGET,)) as w,
        ):
            reader, writer = await w.connect()
            writer.write(connect_head(443))
            assert int((await reader.readuntil(b"\r\n\r\n")).split()[1]) == status
            if raw:
                assert await reader.readexactly(len(PAGE)) == PAGE
            writer.close()
            await w.settled()
            assert (granted(w), handed_over(w)) == (1, int(not raw))
