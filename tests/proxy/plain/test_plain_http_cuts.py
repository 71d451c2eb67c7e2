"""Plain requests that a change of the policy or the end of the proxy cuts, and steps that raise."""

from __future__ import annotations

import asyncio

import pytest

from cloned_proxy.proxy import plain
from cloned_proxy.proxy.http1 import incoming, outgoing
from cloned_proxy.proxy.plain import admission, reach
from tests.proxy.plain.support import answering, client, read_message, reply, request
from tests.proxy.support import HOST, allow, policy, until, upstream, world

# Revocation and drain.


async def test_a_revoked_request_is_reset_within_a_sweep() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nstreaming")
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        await reader.readuntil(b"streaming")
        assert len(w.gate.tunnels) == 1
        w.policies.current = policy()
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]


async def test_a_revoked_request_without_an_answer_yet_is_told_why() -> None:
    reached = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        reached.set()
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        await reached.wait()
        w.policies.current = policy()
        w.gate.sweep()
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await w.settled()
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"X-Cloned-Proxy-Reason: host_not_allowed" in head
    assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]


async def test_a_stopping_gate_cuts_idle_clients_and_finishes_open_requests() -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        await go.wait()
        writer.write(reply(b"finished"))
        await reader.read()

    async with (
        upstream(serve) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (busy, writer),
        client(w) as (idle, other),
    ):
        other.write(b"GET / HTTP/1.1\r\n\r\n")
        await idle.read()
        writer.write(request(server.port))
        await until(lambda: server.connections == 1)
        draining = asyncio.create_task(w.gate.drain(5))
        await asyncio.sleep(0.05)
        go.set()
        message = await read_message(busy)
        assert (message.body, message.one("connection")) == (b"finished", "close")
        writer.close()
        await draining


# Breaking the steps: whatever fails, nothing goes up and nothing hangs.


def raising(*args: object, **kwargs: object) -> object:
    raise RuntimeError("broken on purpose")


BREAKABLE: dict[str, tuple[object, str]] = {
    "identify": (admission, "identify"),
    "the exchange": (admission, "PlainExchange"),
    "the dial": (reach, "connect"),
    "the head": (outgoing, "encode_request"),
    "the client": (plain, "PlainClient"),
}


@pytest.mark.parametrize(("owner", "name"), BREAKABLE.values(), ids=BREAKABLE.keys())
async def test_a_broken_step_closes_and_forwards_nothing(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, raising)
    async with upstream() as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await w.settled()
    assert server.received == b""


@pytest.mark.parametrize("name", ["parse_response", "trailers_of"])
async def test_a_broken_reader_of_responses_passes_nothing_for_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, name, raising)
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    async with upstream(answering(chunks)) as server, world(allow(HOST, server.port)) as w, client(w) as (r, writer):
        writer.write(request(server.port))
        with pytest.raises(ConnectionResetError):
            await r.read()
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["internal_error"]
