"""Requests that two readers could read differently. Judged by what reaches the upstream, in HTTP/2 and in HTTP/1.1."""

from __future__ import annotations

import asyncio

import pytest
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame

from cloned_proxy.proxy.inspection.connections import heads
from tests.proxy.inspection.http2.peers import Client, Fields, Message, Upstream2, UpstreamPeer
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until

CANARY = "canary-7f3a"


def _changed(head: Fields, name: str, value: str) -> Fields:
    return [(found, value if found == name else old) for found, old in head]


def _with(*fields: tuple[str, str]) -> object:
    return lambda head: [*head, *fields]


REFUSED = {
    "another authority": lambda head: _changed(head, ":authority", "other.test"),
    "another port": lambda head: _changed(head, ":authority", "api.test:444"),
    "user information": lambda head: _changed(head, ":authority", "api.test@" + dict(head)[":authority"]),
    "an authority with CRLF": lambda head: _changed(head, ":authority", dict(head)[":authority"] + "\r\nx: y"),
    "another Host": _with(("host", "other.test")),
    "two Hosts": lambda head: [h for h in head if h[0] != ":authority"] + [("host", "api.test"), ("host", "api.test")],
    "no authority": lambda head: [field for field in head if field[0] != ":authority"],
    "authority twice": lambda head: [head[2], *head],
    "path twice": lambda head: [*head, head[3]],
    "a late pseudo-field": lambda head: [*head[:3], ("x-a", "1"), head[3]],
    "an unknown pseudo-field": lambda head: [*head, (":canary", "1")],
    "a status": lambda head: [*head, (":status", "200")],
    "no path": lambda head: head[:3],
    "an empty path": lambda head: _changed(head, ":path", ""),
    "a relative path": lambda head: _changed(head, ":path", "ok/1"),
    "an absolute path": lambda head: _changed(head, ":path", "https://other.test/"),
    "a path with a request": lambda head: _changed(head, ":path", "/ HTTP/1.1\r\nhost: other.test\r\n\r\nGET /"),
    "a path with a blank": lambda head: _changed(head, ":path", "/ok/ HTTP/1.1"),
    "a path with a fragment": lambda head: _changed(head, ":path", "/ok#x"),
    "a method with a blank": lambda head: _changed(head, ":method", "GET / HTTP/1.1\r\n"),
    "plain http": lambda head: _changed(head, ":scheme", "http"),
    "CONNECT": lambda head: [(":method", "CONNECT"), head[2]],
    "extended CONNECT": lambda head: [*_changed(head, ":method", "CONNECT"), (":protocol", "websocket")],
    "CR in a value": _with(("x-a", "1\r2")),
    "LF in a value": _with(("x-a", "1\nx-injected: 2")),
    "CRLF in a value": _with(("x-a", "1\r\nx-injected: 2")),
    "NUL in a value": _with(("x-a", "1\x002")),
    "a blank before a value": _with(("x-a", " 1")),
    "a blank behind a value": _with(("x-a", "1\t")),
    "CRLF in a name": _with(("x-a: 1\r\nx-injected", "2")),
    "a colon in a name": _with(("x-a:x-b", "2")),
    "an upper-case name": _with(("X-A", "2")),
    "an empty name": _with(("", "2")),
    "Connection": _with(("connection", "x-a"), ("x-a", "1")),
    "Transfer-Encoding": _with(("transfer-encoding", "chunked")),
    "Upgrade": _with(("upgrade", "websocket")),
    "Keep-Alive": _with(("keep-alive", "timeout=5")),
    "Proxy-Connection": _with(("proxy-connection", "close")),
    "TE that is not trailers": _with(("te", "chunked")),
    "a length that is not there": _with(("content-length", "7")),
    "two lengths": _with(("content-length", "0"), ("content-length", "0")),
    "too many fields": _with(*((f"x-{n}", "1") for n in range(500))),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_it_is_refused_on_its_own_stream_and_nothing_of_it_goes_on(
    case: str, h2: World, upstream: Upstream2, client: Client
) -> None:
    change = REFUSED[case]
    head = change(client.head("/ok/1", fields=[("x-canary", CANARY)]))  # type: ignore[operator]
    before = client.begin(client.head("/first"))
    answer = await client.ask(head)
    assert answer.status in {"400", "403", "431"}, answer
    assert answer.get("x-cloned-proxy-reason") in {"malformed_request", "host_header_mismatch"}
    assert (await client.response(before)).status == "200"
    assert (await client.ask(client.head("/last"))).status == "200"
    assert CANARY not in upstream.text
    assert [message.get(":path") for message in upstream.requests] == ["/first", "/last"]
    assert {str(reason) for reason in h2.audit.reasons} <= {"allowed", "malformed_request", "host_header_mismatch"}
    assert len(h2.audit.requests) == 3


@pytest.mark.parametrize("case", ["CRLF in a value", "CRLF in a name", "LF in a value"])
async def test_without_the_strict_reader_it_would_be_a_second_request_in_http1(
    case: str, h1: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack against a build without its guard, and against the one that we ship."""
    change = REFUSED[case]
    for broken in (False, True):
        if broken:
            _without_a_reader(monkeypatch)
        client = await Client.connect(h1)
        before = len(h1.upstream.received)
        await client.ask(change(client.head("/ok/1")))  # type: ignore[operator]
        await client.close()
        reached = bytes(h1.upstream.received[before:])
        assert (b"x-injected: 2" in reached) is broken


def _without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything:
        @staticmethod
        def fullmatch(text: bytes) -> bool:
            return True

    for name in ("_NAME", "_VALUE"):
        monkeypatch.setattr(heads, name, Anything)


async def test_without_the_check_of_the_target_another_host_is_asked(
    h2: World, upstream: Upstream2, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloned_proxy.proxy.inspection.requests import admission  # noqa: PLC0415  what is broken here

    monkeypatch.setattr(admission, "_same_target", lambda head, tunnel: True)
    h2.allow(rule("api.test", h2.upstream.port), rule("other.test", 443))
    client = await Client.connect(h2)
    head = _changed(client.head("/x"), ":authority", "other.test")
    answer = await client.ask(head)
    # The pool is the last line: it dials for nothing but the target of the tunnel.
    assert answer.status == "503"
    assert not upstream.requests
    await client.close()


async def test_a_host_beside_authority_that_says_the_same_passes_once(upstream: Upstream2, client: Client) -> None:
    assert (await client.ask(client.head(fields=[("host", client.world.authority.upper())]))).status == "200"
    assert upstream.requests[0].get("host") is None


async def test_a_request_without_authority_is_known_by_its_host(upstream: Upstream2, client: Client) -> None:
    head = [field for field in client.head() if field[0] != ":authority"]
    assert (await client.ask([*head, ("host", client.world.authority)])).status == "200"
    assert upstream.requests[0].get(":authority") == client.world.authority


@pytest.mark.parametrize("sent", [b"abc", b"abcdefgh"], ids=["shorter", "longer"])
@pytest.mark.parametrize("version", ["h1", "h2"])
async def test_a_body_that_is_not_as_long_as_it_says_is_never_whole(
    sent: bytes, version: str, h1: World, h2: World, upstream: Upstream2
) -> None:
    world = h1 if version == "h1" else h2
    client = await Client.connect(world)
    head = client.head("/up", method="POST", fields=[("content-length", "5")])
    stream = client.begin(head, end=False)
    client.send(DataFrame(stream, sent, flags=["END_STREAM"]))
    assert (await client.response(stream)).reset == 1
    if version == "h2":
        await until(lambda: all(task.done() or message.over.is_set() for task, message in _both(upstream)))
        assert not any(message.ended for message in upstream.requests)
    else:
        assert bytes(world.upstream.received).rpartition(b"\r\n\r\n")[2] in (b"", b"abc")
    await until(lambda: world.in_use == 1)  # the CONNECT itself
    assert (await client.ask(client.head("/again"))).status == "200", "its neighbours do not pay for it"
    await client.close()


@pytest.mark.parametrize("sent", [b"abc", b"abcdefgh"], ids=["shorter", "longer"])
async def test_a_response_that_is_not_as_long_as_it_says_ends_alone(
    sent: bytes, upstream: Upstream2, client: Client
) -> None:
    async def bad(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200"), ("content-length", "5")])
        peer.send(DataFrame(stream, sent, flags=["END_STREAM"]))

    good, upstream.serve = upstream.serve, bad
    answer = await client.ask()
    assert not answer.ended
    assert bytes(answer.body) in (b"", b"abc")
    upstream.serve = good
    assert (await client.ask()).status == "200"
    assert len(upstream.peers) == 1
    await client.close()


def _both(upstream: Upstream2) -> list[tuple[asyncio.Future[None], Message]]:
    return list(zip(upstream.tasks, upstream.requests, strict=True))


async def test_a_body_without_a_length_becomes_chunks_and_cookies_one_field_for_http1(h1: World) -> None:
    client = await Client.connect(h1)
    head = client.head("/up", method="POST", fields=[("cookie", "a=1"), ("cookie", "b=2")])
    await client.ask(head, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
    assert b"cookie: a=1; b=2\r\n" in h1.upstream.received
    assert b"transfer-encoding: chunked\r\n" in h1.upstream.received
    assert h1.upstream.received.endswith(b"1f\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n0\r\n\r\n")
    await client.close()


async def test_a_response_that_is_no_response_is_502(upstream: Upstream2, client: Client) -> None:
    blocks: list[Fields] = [
        [(":status", "two")],
        [(":status", "200"), (":status", "200")],
        [(":status", "200"), ("connection", "close")],
        [(":status", "200"), ("x-a", "1\r\nx-cloned-proxy-reason: none")],
        [(":status", "200"), ("X-A", "1")],
        [("x-a", "1"), (":status", "200")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), ("content-length", "1"), ("content-length", "1")],
    ]

    async def bad(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, blocks[len(upstream.requests) - 1])
        peer.send()

    upstream.serve = bad
    for _ in blocks:
        answer = await client.ask()
        assert (answer.status, b'"phase":"response"' in answer.body) == ("502", True), answer
    assert len(upstream.peers) == 1  # its neighbours do not pay for it


async def test_a_stream_that_ends_early_upstream_does_not_look_whole(upstream: Upstream2, client: Client) -> None:
    async def half(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200")])
        peer.h2.send_data(stream, b"half")
        peer.send()
        await client.messages[1].until(lambda: bool(client.messages[1].body))
        peer.h2.reset_stream(stream, 2)
        peer.send()

    upstream.serve = half
    answer = await client.ask()
    assert (bytes(answer.body), answer.ended, answer.reset is not None) == (b"half", False, True)


async def test_frames_of_two_requests_in_one_block_do_not_mix(upstream: Upstream2, client: Client) -> None:
    """HEADERS of one stream, CONTINUATION of another: the connection ends (RFC 9113, section 6.10)."""
    await client.ask()
    block = Encoder().encode([(name.encode(), value.encode()) for name, value in client.head("/evil")])
    client.send(HeadersFrame(101, block[:4]), ContinuationFrame(103, block[4:], flags=["END_HEADERS"]))
    async with asyncio.timeout(60):
        await client.closed.wait()
    assert client.goaway == 1
    assert [message.get(":path") for message in upstream.requests] == ["/"]
