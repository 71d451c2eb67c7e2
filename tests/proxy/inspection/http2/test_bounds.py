"""What one client or one upstream may cost, and that its neighbours do not pay for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)

from cloned_proxy.proxy.inspection.connections import bounds
from cloned_proxy.proxy.inspection.connections.bounds import Calm
from cloned_proxy.proxy.inspection.connections.endpoint import Endpoint
from cloned_proxy.proxy.inspection.upstream.upstream_h1 import UpstreamH1
from cloned_proxy.proxy.inspection.upstream.upstream_h2 import UpstreamH2
from tests.proxy.inspection.http2.peers import Client, Message, Upstream2, UpstreamPeer, answer_ok
from tests.proxy.inspection.support import World
from tests.proxy.support import until

CALM = 11  # ENHANCE_YOUR_CALM


async def _never(peer: UpstreamPeer, stream: int, message: Message) -> None:
    return


async def _closed(client: Client) -> None:
    async with asyncio.timeout(60):
        await client.closed.wait()


async def test_rapid_resets_end_the_connection_and_reach_the_upstream_a_bounded_number_of_times(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    upstream.serve = _never
    block = [(name.encode(), value.encode()) for name, value in client.head("/")]
    encoder = Encoder()
    for number in range(2000):
        stream = 2 * number + 1
        if client.closed.is_set():
            break
        head = HeadersFrame(stream, encoder.encode(block), flags=["END_HEADERS", "END_STREAM"])
        client.send(head, RstStreamFrame(stream, error_code=8))
        await asyncio.sleep(0)
    await _closed(client)
    assert client.goaway == CALM
    assert len(h2.audit.requests) < 300
    assert len(upstream.requests) < 300
    await until(lambda: h2.in_use == 0)


def _pings() -> Iterator[Frame]:
    return (PingFrame(0, b"x" * 8) for _ in range(5000))


def _settings() -> Iterator[Frame]:
    return (SettingsFrame(0, {SettingCodes.INITIAL_WINDOW_SIZE: 65535 + n}) for n in range(5000))


def _priorities() -> Iterator[Frame]:
    return (PriorityFrame(2 * n + 1001, depends_on=0, stream_weight=1) for n in range(5000))


def _empty_data() -> Iterator[Frame]:
    return (DataFrame(1, b"") for _ in range(5000))


@pytest.mark.parametrize("frames", [_pings, _settings, _priorities, _empty_data])
async def test_a_flood_of_what_asks_for_nothing_ends_the_connection(
    frames: Callable[[], Iterator[Frame]], h2: World, upstream: Upstream2, client: Client
) -> None:
    upstream.serve = _never
    client.begin(client.head("/up", method="POST"), end=False)
    await until(lambda: len(upstream.requests) == 1)
    for number, frame in enumerate(frames()):
        client.send(frame)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await _closed(client)
    assert client.goaway == CALM
    await until(lambda: h2.in_use == 0)


@pytest.mark.parametrize("piece", [b"", b"x" * 16_384], ids=["empty", "full"])
async def test_a_flood_of_continuations_ends_the_connection(
    piece: bytes, h2: World, upstream: Upstream2, client: Client
) -> None:
    client.send(HeadersFrame(1, Encoder().encode([(b":method", b"GET")])))
    for _ in range(200):
        client.send(ContinuationFrame(1, piece))
        await asyncio.sleep(0)
    await _closed(client)
    assert not upstream.requests


async def test_a_small_block_that_unpacks_to_a_large_one_ends_the_connection(
    upstream: Upstream2, client: Client
) -> None:
    encoder = Encoder()
    big = [(b"x-big", b"v" * 3000)]
    base = [(name.encode(), value.encode()) for name, value in client.head("/")]
    block = encoder.encode(base + big) + encoder.encode(big) * 5000
    assert len(block) < 16_384
    client.send(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
    await _closed(client)
    assert not upstream.requests


async def test_nobody_makes_us_keep_a_large_table(h2: World, upstream: Upstream2) -> None:
    async def greedy(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**32 - 1})
        await answer_ok(peer, stream, message)

    upstream.serve = greedy
    client = await Client.connect(h2)
    client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**32 - 1})
    client.send()
    for number in range(50):
        await client.ask(client.head(fields=[(f"x-{number}", "y" * 1000)]))
    sides: list[Endpoint] = [h2.front, *(behind for behind in h2.front.pool._open if isinstance(behind, UpstreamH2))]
    assert len(sides) == 2
    for side in sides:
        assert side.h2.encoder.header_table_size == bounds.HEADER_TABLE
        assert side.h2.decoder.max_allowed_table_size == bounds.HEADER_TABLE
    await client.close()


async def test_too_many_streams_end_the_connection(h2: World, upstream: Upstream2, client: Client) -> None:
    upstream.serve = _never
    client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    client.h2.remote_settings.acknowledge()
    for number in range(bounds.MAX_STREAMS):
        client.begin(client.head(f"/{number}"))
    await until(lambda: len(upstream.requests) == bounds.MAX_STREAMS)
    client.begin(client.head("/one-more"))
    await _closed(client)
    assert len(upstream.requests) == bounds.MAX_STREAMS
    await until(lambda: h2.in_use == 0)


async def test_more_streams_than_an_upstream_takes_get_another_connection(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    release = asyncio.Event()

    async def wait(peer: UpstreamPeer, stream: int, message: Message) -> None:
        await release.wait()
        peer.h2.send_headers(stream, [(":status", "200")], end_stream=True)
        peer.send()

    upstream.serve = wait
    upstream.prepare = lambda peer: peer.h2.local_settings.update({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
    streams = [client.begin(client.head(f"/{n}")) for n in range(6)]
    await until(lambda: len(upstream.requests) == 6)
    release.set()
    assert [(await client.response(stream)).status for stream in streams] == ["200"] * 6


async def test_after_many_requests_the_client_is_told_to_come_again(
    h2: World, upstream: Upstream2, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_REQUESTS", 3)
    assert [(await client.ask()).status for _ in range(3)] == ["200"] * 3
    await _closed(client)
    assert client.goaway == 0
    assert len(h2.audit.requests) == 3


SIZE = 16 * 1024 * 1024


async def test_a_slow_reader_stops_its_own_upstream_and_no_neighbour(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    sent = dict.fromkeys(("/slow", "/fast"), 0)

    async def download(peer: UpstreamPeer, stream: int, message: Message) -> None:
        path = message.get(":path") or ""
        peer.h2.send_headers(stream, [(":status", "200")])
        for _ in range(SIZE // 65_536):
            await peer.send_body(stream, b"x" * 65_536, end=False)
            sent[path] += 65_536
        await peer.send_body(stream, b"", end=True)

    upstream.serve = download
    slow = client.begin(client.head("/slow"))
    client.withheld.add(slow)
    await client.messages[slow].until(lambda: len(client.messages[slow].body) >= 65_535)
    fast = await client.ask(client.head("/fast"))
    assert len(fast.body) == SIZE
    # What the slow one has not taken waits upstream, but for one window here and one at the client.
    assert sent["/slow"] <= bounds.STREAM_WINDOW + 65_535 + 65_536
    (stream,) = h2.front._streams.values()
    (behind,) = h2.front.pool._open
    assert isinstance(behind, UpstreamH2)
    held = sum(exchange.body.size for exchange in behind._exchanges.values())
    assert held <= bounds.STREAM_WINDOW
    assert stream.grant is not None
    # And a window that has grown is given back at the end of its stream.
    assert behind.growth == bounds.GROWTH


async def test_a_slow_upstream_stops_its_own_upload_and_no_neighbour(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    def withhold(peer: UpstreamPeer) -> None:
        peer.withheld.add(1)

    upstream.prepare = withhold
    slow = client.begin(client.head("/slow", method="POST"), end=False)
    await until(lambda: len(upstream.requests) == 1)
    pushing = asyncio.create_task(client.send_body(slow, b"x" * SIZE))
    await upstream.requests[0].until(lambda: len(upstream.requests[0].body) >= 65_535)
    fast = await client.ask(client.head("/fast", method="POST"), b"y" * SIZE)
    assert fast.status == "200"
    assert len(upstream.requests[1].body) == SIZE
    assert len(upstream.requests[0].body) == 65_535
    waiting = h2.front._streams[slow].window.pipe.size
    assert waiting <= bounds.GROWN_WINDOW
    assert not pushing.done()
    pushing.cancel()


def test_calm_is_lost_by_a_burst_and_comes_back_with_time() -> None:
    now = 0.0
    calm = Calm(burst=3, rate=2.0, clock=lambda: now)
    assert [calm.spend() for _ in range(4)] == [True, True, True, False]
    now = 1.0
    assert [calm.spend() for _ in range(2)] == [True, False]


async def test_an_upstream_that_takes_no_stream_is_502_and_not_dialled_for_ever(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    def none(peer: UpstreamPeer) -> None:
        settings: dict[SettingCodes | int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: 0}
        peer.h2.local_settings.update(settings)

    async def refuse(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.reset_stream(stream, 7)  # REFUSED_STREAM
        peer.send()

    upstream.prepare, upstream.serve = none, refuse
    streams = [client.begin(client.head(f"/{n}")) for n in range(5)]
    assert {(await client.response(stream)).status for stream in streams} == {"502"}
    assert h2.upstream.connections <= 10


async def test_of_a_download_that_is_taken_back_nothing_stays(h1: World) -> None:
    """Neither its connection, nor its task, nor what of it was waiting for the client."""
    size = 600_000

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await reader.read()

    h1.upstream.reply = pour
    client = await Client.connect(h1)
    stream = client.begin(client.head("/x"))
    client.withheld.add(stream)
    await client.messages[stream].until(lambda: len(client.messages[stream].body) >= 65_535)
    (upstream,) = h1.front.pool._open
    assert isinstance(upstream, UpstreamH1)
    exchange = upstream._exchange
    assert exchange is not None
    await until(lambda: exchange.body._waiter is not None and not exchange.body._waiter.done())
    client.h2.reset_stream(stream, 8)
    client.send()
    await until(upstream._over.is_set)
    assert exchange.body.size == 0
    assert not h1.front.pool._open
    assert not h1.front._streams
    await client.close()
