"""Secrets of the vault in HTTP/2, on their way to a host that they are not for. Its neighbours go on."""

from __future__ import annotations

import base64
import json

import pytest

from tests.proxy.inspection.http2.peers import Client, Upstream2
from tests.proxy.inspection.support import World
from tests.proxy.support import until

CANARY = "sk-canary/4f+9=0aQ"


@pytest.mark.parametrize(
    "place", ["query", "field", "body", "split body", "trailer", "trailer of a coded body", "trailer of no body"]
)
async def test_a_stream_with_it_is_refused_and_the_others_go_on(
    h2: World, upstream: Upstream2, client: Client, place: str
) -> None:
    h2.leaks.load({"github.token": CANARY})
    neighbour = client.begin(client.head("/up", method="POST"), end=False)
    basic = base64.b64encode(f"me:{CANARY}".encode()).decode()
    head = client.head(
        f"/?k={CANARY}" if place == "query" else "/",
        method="GET" if place in ("query", "field") else "POST",
        fields={
            "field": [("authorization", f"Basic {basic}")],
            "trailer of a coded body": [("content-encoding", "gzip")],
            "trailer of no body": [("content-length", "0")],
        }.get(place, []),
    )
    stream = client.begin(head, end=place in ("query", "field"))
    if place == "body":
        await client.send_body(stream, f"take {CANARY} along".encode())
    elif place == "split body":
        for byte in CANARY.encode():
            await client.send_body(stream, bytes((byte,)), end=False)
    elif place.startswith("trailer"):
        if not place.endswith("no body"):
            await client.send_body(stream, b"nothing", end=False)
        client.h2.send_headers(stream, [("x-sum", CANARY)], end_stream=True)
        client.send()
    answer = await client.response(stream)
    assert (answer.status, answer.get("x-cloned-proxy-reason")) == ("403", "secret_leak")
    assert json.loads(answer.body)["reason"] == "secret_leak"
    await client.send_body(neighbour, b"fine")
    assert (await client.response(neighbour)).status == "200"
    seen = repr([(message.fields, bytes(message.body), message.trailers) for message in upstream.requests])
    for told in (seen, repr(h2.audit.events), repr(answer)):
        assert CANARY not in told
        assert CANARY[:9] not in told
        assert basic not in told
    assert "secret_leak" in h2.audit.reasons
    await until(lambda: h2.in_use == 1)  # the CONNECT


async def test_a_stream_without_it_passes(h2: World, upstream: Upstream2, client: Client) -> None:
    h2.leaks.load({"github.token": CANARY})
    body = bytes(range(256)) * 400 + CANARY[:-1].encode()
    answer = await client.ask(client.head(method="POST"), body, [("x-sum", CANARY[1:])])
    assert answer.status == "200"
    assert bytes(upstream.requests[0].body) == body
    assert upstream.requests[0].trailers == [("x-sum", CANARY[1:])]
