"""The way to the store: it comes back by itself, and nothing waits for longer than its bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from redis._parsers import Encoder

from cloned_proxy.fleet.link import answers
from cloned_proxy.fleet.link import link as link_module
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore, Raw

TRUST = [SigningKey.generate().public]
WAIT = 60.0


class Listener:
    """What a link has told."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[object] = asyncio.Queue()

    async def wait_for(self, wanted: object) -> None:
        async with asyncio.timeout(WAIT):
            while await self.events.get() != wanted:
                pass


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Callable[[str], tuple[Link, Listener]]]:
    links: list[Link] = []

    def make(url: str) -> tuple[Link, Listener]:
        heard = Listener()
        settings = FleetSettings(name="acme", store=url, trust=TRUST)
        link = Link(settings, base=tmp_path, on_state=heard.events.put_nowait)
        link.follow("news", heard.events.put_nowait)
        links.append(link)
        return link, heard

    yield make
    for link in links:
        await link.close()


async def test_it_reads_after_each_subscription_and_hears_what_comes(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer
) -> None:
    link, heard = made(store.url)

    async def read() -> None:
        heard.events.put_nowait(await link.run(lambda redis: redis.get("what")))

    link.at_connect(read)
    with store.client() as client:
        client.set("what", "first")
        link.start()
        await heard.wait_for(b"first")
        await heard.wait_for(True)
        client.publish("news", "1")
        await heard.wait_for(b"1")
    await asyncio.to_thread(store.kill)
    await heard.wait_for(False)
    assert not link.connected
    await asyncio.to_thread(store.start)
    with store.client() as client:
        await heard.wait_for(True)
        client.publish("news", "2")
        await heard.wait_for(b"2")


async def test_what_an_answer_broke_in_one_part_at_the_connect_holds_up_no_other_and_no_connection(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer
) -> None:
    link, heard = made(store.url)

    async def broken() -> None:
        raise LookupError("an answer that is none")

    async def whole() -> None:
        heard.events.put_nowait("whole")

    link.at_connect(broken)
    link.at_connect(whole)
    link.start()
    assert [await asyncio.wait_for(heard.events.get(), WAIT) for _ in range(2)] == ["whole", True]


async def test_a_frozen_store_costs_a_bounded_wait_and_no_later_answer_is_mistaken(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(link_module, "_QUIET_SECONDS", 0.2)
    link, heard = made(store.url)
    link.start()
    await heard.wait_for(True)
    await link.run(lambda redis: redis.set("a", "1"))
    store.freeze()
    with pytest.raises(StoreAwayError, match="no answer within"):
        await link.run(lambda redis: redis.get("a"), within=0.2)
    await heard.wait_for(False)
    store.thaw()
    await heard.wait_for(True)
    await link.run(lambda redis: redis.set("b", "2"))
    assert [await link.run(lambda redis: redis.get("b")) for _ in range(10)] == [b"2"] * 10


async def test_what_is_nobodys_store_is_told_without_the_password(tmp_path: Path) -> None:
    settings = FleetSettings(
        name="acme", store=f"unix://{tmp_path}/none.sock", auth="${vault:fleet.store}", trust=TRUST
    )

    class Vault:
        def value_of(self, name: str) -> str:
            return "user:s3cret"

    async with Link(settings, base=tmp_path, secrets=Vault()) as link:
        with pytest.raises(StoreAwayError) as caught:
            await link.run(lambda redis: redis.ping())
    assert "s3cret" not in str(caught.value)
    assert "none.sock" in str(caught.value)


async def test_a_wrong_password_is_told_with_its_fix(store: RedisServer, tmp_path: Path) -> None:
    with store.client() as client:
        client.config_set("requirepass", "right")

    class Vault:
        secret = ":wrong"

        def value_of(self, name: str) -> str:
            return self.secret

    vault = Vault()
    settings = FleetSettings(name="acme", store=store.url, auth="${vault:fleet.store}", trust=TRUST)
    async with Link(settings, base=tmp_path, secrets=vault) as link:
        with pytest.raises(StoreAwayError, match="refuses this credential"):
            await link.run(lambda redis: redis.ping())
        vault.secret = ":right"
        assert await link.run(lambda redis: redis.ping())


@pytest.mark.parametrize(
    "answer",
    [
        b"$900000000\r\n" + b"x" * 70_000,
        b"*900000000\r\n" + b"$-1\r\n" * 20_000,
        b"*1\r\n" * 20_000,
        b":nonsense\r\n",
        b"$-7\r\n",
        b"+" + b"x" * 100_000,
        b"?what\r\n",
    ],
)
async def test_an_answer_is_kept_up_to_a_bound_and_the_next_one_is_right(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
        link, _ = made(liar.url)
        await link.run(lambda redis: redis.set("a", "1"))
        liar.lie = lambda command, true: Raw(answer) if command[0] == b"GET" else true
        read: list[int] = []
        spend = answers.BoundedParser._spend

        def counted(self: answers.BoundedParser, size: int) -> None:
            read.append(size)
            spend(self, size)

        monkeypatch.setattr(answers.BoundedParser, "_spend", counted)
        with pytest.raises(StoreAwayError):
            await link.run(lambda redis: redis.get("a"))
        assert sum(read[:-1]) <= answers.MOST_ANSWERED
        liar.lie = None
        assert await link.run(lambda redis: redis.get("a")) == b"1"


async def test_an_answer_may_be_as_large_as_was_said(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer
) -> None:
    link, _ = made(store.url)
    large = b"x" * (answers.MOST_ANSWERED + 1)
    await link.run(lambda redis: redis.set("a", large))
    with pytest.raises(StoreAwayError, match="more bytes than an answer may have"):
        await link.run(lambda redis: redis.get("a"))
    assert await link.run(lambda redis: redis.get("a"), most=2 * len(large)) == large


async def test_idle_connections_end_with_the_subscription(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer
) -> None:
    """Where the one leads nowhere any more, neither do they."""
    link, heard = made(store.url)
    link.start()
    await heard.wait_for(True)
    await asyncio.gather(*(link.run(lambda redis: redis.ping()) for _ in range(3)))
    with store.client() as client:
        idle = {each["id"] for each in client.client_list(_type="normal")} - {str(client.client_id())}
        assert idle
        client.client_kill_filter(_type="pubsub")
        await heard.wait_for(False)
        await heard.wait_for(True)
        async with asyncio.timeout(WAIT):
            while idle & {each["id"] for each in client.client_list(_type="normal")}:  # noqa: ASYNC110  the server tells
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR s3cret",
        b"-s3cret s3cret s3cret",
        b"-LOADING s3cret",
        b"-S3CRET",
        b"?s3cret",
        b":s3cret",
        b"-READONLY s3cret",
    ],
)
async def test_no_word_of_a_refusal_is_repeated_that_the_store_may_have_from_us(
    store: RedisServer, tmp_path: Path, refusal: bytes
) -> None:
    class Vault:
        def value_of(self, name: str) -> str:
            return ":s3cret"

    settings = FleetSettings(name="acme", store=f"unix://{tmp_path}/x", auth="${vault:fleet.store}", trust=TRUST)
    async with LyingStore(store.socket, tmp_path / "x").serving() as liar:
        liar.lie = lambda _command, _true: Raw(refusal + b"\r\n")
        async with Link(settings, base=tmp_path, secrets=Vault()) as link:
            with pytest.raises(StoreAwayError) as caught:
                await link.run(lambda redis: redis.get("a"))
    assert "s3cret" not in str(caught.value).lower()


async def test_a_flood_of_messages_is_read_at_a_bounded_rate(
    made: Callable[[str], tuple[Link, Listener]], store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_BURST", 5)
    monkeypatch.setattr(link_module, "_BURST_SECONDS", 0.2)
    link, heard = made(store.url)
    link.start()
    await heard.wait_for(True)
    began = time.monotonic()
    with store.client() as client, client.pipeline() as calls:
        for number in range(20):
            calls.publish("news", str(number))
        calls.execute()
    await heard.wait_for(b"19")
    assert time.monotonic() - began >= 2 * 0.2  # of four bursts; the first may have begun long before


@pytest.mark.parametrize("broken", [False, True])
async def test_a_message_that_is_too_large_ends_no_subscription_and_is_no_less_a_message(
    made: Callable[[str], tuple[Link, Listener]],
    store: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    broken: bool,
) -> None:
    """Whoever has a replica's password could end those of all others with it, again and again."""
    if broken:
        monkeypatch.setattr(link_module, "without_what_is_large", nullcontext)
    link, heard = made(store.url)
    link.start()
    await heard.wait_for(True)
    with store.client() as client:
        client.publish("news", b"x" * (answers.MOST_ANSWERED + 1))
        client.publish("news", "next")
    if broken:
        await heard.wait_for(False)
        return
    found = [await asyncio.wait_for(heard.events.get(), WAIT) for _ in range(2)]
    assert found == [b"", b"next"]
    assert found[0] is answers.LEFT_OUT
    # What is asked for still has its bound, and its error.
    await link.run(lambda redis: redis.set("a", b"x" * (answers.MOST_ANSWERED + 1)))
    with pytest.raises(StoreAwayError, match="more bytes than an answer may have"):
        await link.run(lambda redis: redis.get("a"))
    assert link.connected


async def test_a_large_message_that_comes_slowly_is_left_out_as_a_whole() -> None:
    """The wait for a message may end in its middle, and the next one goes on there."""
    reader = asyncio.StreamReader()
    parser = answers.BoundedParser(65_536)
    parser._stream, parser._connected = reader, True
    parser.encoder = Encoder("utf-8", "strict", decode_responses=False)  # type: ignore[no-untyped-call]  # not typed there
    parser._clear()
    size = answers.MOST_ANSWERED + 100_000

    async def next_message() -> object:
        with answers.without_what_is_large():
            return await parser.read_response(disable_decoding=True)

    reader.feed_data(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$%d\r\n" % size)
    for sent in (70_000, 500_000, size - 570_000):
        waiting = asyncio.create_task(next_message())
        await asyncio.sleep(0)
        reader.feed_data(b"x" * sent)
        await asyncio.sleep(0)
        while reader._buffer:  # type: ignore[attr-defined]  # noqa: ASYNC110  until it waits for more
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    reader.feed_data(b"\r\n*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n1\r\n")
    assert await next_message() == [b"message", b"news", b""]
    assert await next_message() == [b"message", b"news", b"1"]
    reader.feed_data(b"*2\r\n$%d\r\n" % size + b"x" * size + b"\r\n$%d\r\n" % size)
    with pytest.raises(answers.LargeAnswerError):  # one of each message may be left out, and no more
        await next_message()
