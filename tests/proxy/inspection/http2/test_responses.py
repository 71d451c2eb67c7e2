"""Responses of an HTTP/2 upstream that end in another way than their heads say, to a client of HTTP/2."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.terms.rule import Inject
from tests.proxy.inspection.http2.peers import Client, Message, Upstream2, UpstreamPeer
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until

SECRET = "sesame-123456"


@pytest.mark.parametrize("status", ["204", "304"])
async def test_what_follows_a_head_that_has_no_body_goes_to_nobody(h2: World, upstream: Upstream2, status: str) -> None:
    """Nobody searches a body that there cannot be for the secret."""

    async def repeat(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", status)])
        peer.h2.send_data(stream, (message.get("x-api-key") or "").encode(), end_stream=True)
        peer.send()

    upstream.serve = repeat
    h2.secrets.values["key"] = SECRET
    h2.allow(rule("api.test", h2.upstream.port, inject=Inject("x-api-key", "${vault:key}")))
    client = await Client.connect(h2)
    answer = await client.ask()
    assert [message.get("x-api-key") for message in upstream.requests] == [SECRET]
    assert (answer.status, bytes(answer.body), answer.ended) == (status, b"", True)
    await client.close()


async def test_a_length_without_a_body_is_502(h2: World, upstream: Upstream2, client: Client) -> None:
    async def lie(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200"), ("content-length", "100")], end_stream=True)
        peer.send()

    upstream.serve = lie
    assert (await client.ask()).status == "502"


async def test_a_whole_response_before_the_end_of_its_request_is_not_undone(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    """RFC 9113, section 8.1: the server asks so for the rest not to be sent, and its response stays valid."""

    async def early(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "413"), ("content-length", "9")])
        peer.h2.send_data(stream, b"too large", end_stream=True)
        peer.h2.reset_stream(stream, 0)
        peer.send()

    upstream.serve = early
    stream = client.begin(client.head(method="POST"), end=False)
    message = await client.response(stream)
    assert (message.status, bytes(message.body), message.ended) == ("413", b"too large", True)
    await until(lambda: bool(h2.audit.ends))
    assert [end.cause for end in h2.audit.ends] == ["closed"]


async def test_a_whole_response_outlives_the_connection_that_brought_it(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    size = 120_000

    async def leave(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200"), ("content-length", str(size))])
        await peer.send_body(stream, b"y" * (size // 2), end=False)
        await client.messages[1].until(lambda: len(client.messages[1].body) == size // 2)
        await peer.send_body(stream, b"y" * (size // 2))
        (pipe,) = [one.body for up in h2.front.pool._open for one in up._exchanges.values()]  # type: ignore[attr-defined]
        await until(lambda: pipe.ended)
        peer.writer.transport.abort()

    upstream.serve = leave
    stream = client.begin(client.head())
    client.withheld.add(stream)
    message = client.messages[stream]
    await message.until(lambda: len(message.body) >= 65_535)
    await until(lambda: not h2.front.pool._open)
    client.h2.increment_flow_control_window(size, stream)
    client.send()
    await client.response(stream)
    assert (len(message.body), message.ended) == (size, True)
