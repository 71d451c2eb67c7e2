"""Replicas at one store, and one replica at a store that can be made to lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.fleet.approvals.desk import Desk, until
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore


@pytest.fixture
async def desks(store: RedisServer, tmp_path: Path) -> AsyncIterator[Callable[..., Desk]]:
    made: list[Desk] = []
    tasks: list[asyncio.Task[None]] = []

    def make(name: str, **options: object) -> Desk:
        desk = Desk(name, store.url, tmp_path / name, **options)  # type: ignore[arg-type]
        made.append(desk)
        desk.link.start()
        tasks.append(asyncio.create_task(desk.requests.run()))
        return desk

    yield make
    for task in tasks:
        task.cancel()
    for desk in made:
        await desk.link.close()


@pytest.fixture
async def liar(store: RedisServer) -> AsyncIterator[LyingStore]:
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as lying:
        yield lying


@pytest.fixture
async def desk(liar: LyingStore, tmp_path: Path) -> AsyncIterator[Desk]:
    one = Desk("one", liar.url, tmp_path / "one")
    one.link.start()
    await until(lambda: one.link.connected)
    yield one
    await one.link.close()
