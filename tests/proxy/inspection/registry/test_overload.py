"""More metadata at once than may be held: it comes later, all of it, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from cloned_proxy.policy.model.model import Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.proxy.inspection.examining.held import HeldBody
from tests.proxy.inspection.http2.peers import Client
from tests.proxy.inspection.registry.conftest import Store
from tests.proxy.inspection.registry.shelf import DAY
from tests.proxy.support import until

MOST = 1_000_000
SIZE = 1_500_000
READS = 4 * 65_536
"""What each flow may have read before it waits."""
MANY = 8


@pytest.fixture
def sizes(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is held in all after each change; the bound is low, and no document is compressed."""
    store.world.bodies._most = MOST
    store.shelf.zipped = False
    for number in range(MANY):
        store.shelf.packument(f"pad-{number}", {"1.0.0": 100 * DAY}, store.now, readme="x" * SIZE)
    seen: list[int] = []
    note: Callable[[HeldBody, int], None] = HeldBody.note

    def noted(held: HeldBody, size: int) -> None:
        note(held, size)
        seen.append(store.world.bodies.total)

    monkeypatch.setattr(HeldBody, "note", noted)
    return seen


def readme(body: bytes) -> int:
    return len(json.loads(body)["readme"])


async def test_many_over_http1_are_all_answered_within_the_bound(store: Store, sizes: list[int]) -> None:
    answers = await asyncio.gather(*(store.ask(f"/pad-{number}") for number in range(MANY)))
    assert [(status, readme(body)) for status, _, body in answers] == [(200, SIZE)] * MANY
    assert MOST <= max(sizes) < MOST + SIZE + MANY * READS
    await until(lambda: store.world.bodies.total == 0)


async def test_many_over_http2_are_all_answered_within_the_bound(store: Store, sizes: list[int]) -> None:
    client = await Client.connect(store.world)
    streams = [client.begin(client.head(f"/pad-{number}")) for number in range(MANY)]
    answers = [await client.response(stream) for stream in streams]
    assert [(each.status, readme(bytes(each.body))) for each in answers] == [("200", SIZE)] * MANY
    assert max(sizes) < MOST + SIZE + MANY * READS
    await until(lambda: store.world.bodies.total == 0)
    await client.close()


async def test_dates_that_are_asked_for_count_too(store: Store, sizes: list[int]) -> None:
    files = [f"/pad-{number}/-/pad-{number}-1.0.0.tgz" for number in range(MANY)]
    answers = await asyncio.gather(*(store.ask(file) for file in files))
    assert [status for status, _, _ in answers] == [200] * MANY
    assert SIZE <= max(sizes) < MOST + SIZE + MANY * READS
    assert store.world.bodies.total == 0


async def test_clients_that_do_not_read_keep_nobody_else_waiting(store: Store, sizes: list[int]) -> None:
    store.shelf.packument("large", {"1.0.0": 100 * DAY}, store.now, readme="x" * 6 * SIZE)
    lazy = [await store.world.connect() for _ in range(2)]
    for _, writer in lazy:
        writer.write(store.world.get("/large"))
    await until(lambda: store.world.bodies.total >= 6 * SIZE)
    store.world.allow(store.rule(), tools={"other": Scope(allow=HostIndex([store.rule()]))})
    store.world.caller = type(store.world.caller)("other")
    assert (await store.ask("/pad-1"))[0] == 200
    assert store.world.bodies.total >= 6 * SIZE, "what nobody reads is held"
    for _, writer in lazy:
        writer.transport.abort()
    await until(lambda: store.world.bodies.total == 0)
