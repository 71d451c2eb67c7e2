"""A store that always has one more page of a log: whoever reads it stops, says so, and shows what was read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.audit import audit_read
from cloned_proxy.fleet.audit.receipt import own_key
from tests.fleet.audit.shipping import Replica, read
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore

GIVES_UP = 30
"""Pages after which the liar ends, so that a reader without its guard fails and does not fill the machine."""
PAGE = 100
BODY = b'{"type":"decision","at":1.0,"pad":"%s"}' % (b"x" * 400)


@pytest.fixture
async def liar(store: RedisServer) -> AsyncIterator[LyingStore]:
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as lying:
        yield lying


@pytest.fixture
async def replica(liar: LyingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    monkeypatch.setattr(audit_read, "_PAGE", PAGE)
    made = Replica.make(tmp_path, liar.url, "r1")
    made.record(1000, 1001)
    await made.until_shipped()
    yield made
    await made.link.close()


def page(newest: int) -> list[Any]:
    return [[b"%d-0" % number, [b"hash", b"0" * 64, b"body", BODY]] for number in range(newest, newest - PAGE, -1)]


def tell(liar: LyingStore, pages: Iterator[list[Any]]) -> list[bytes]:
    """Has the liar give these pages; returns where each of them was asked to begin."""
    asked: list[bytes] = []

    def lie(command: list[bytes], true: Any) -> Any:
        if command[0].upper() != b"XREVRANGE":
            return true
        asked.append(command[2])
        return next(pages) if len(asked) <= GIVES_UP else []

    liar.lie = lie
    return asked


@pytest.mark.parametrize("second", [page(1000), page(950), page(901), list(reversed(page(900)))])
@pytest.mark.parametrize("broken", [False, True])
async def test_a_page_that_does_not_go_backwards_is_the_last_one(
    liar: LyingStore, replica: Replica, monkeypatch: pytest.MonkeyPatch, second: list[Any], *, broken: bool
) -> None:
    if broken:
        monkeypatch.setattr(audit_read, "_goes_backwards", lambda _rows: True)

    def pages() -> Iterator[list[Any]]:
        yield page(1000)
        while True:
            yield second

    asked = tell(liar, pages())
    entries, findings = await read(replica)
    if broken:
        assert len(asked) == GIVES_UP + 1
        return
    assert asked == [b"+", b"(901-0"]
    assert len(entries) == PAGE
    who = f"r1 ({own_key(replica.workspace).id[:12]}): "
    assert findings[0] == f"{who}the store gives no older entries, but others again; what is older was not read"


async def test_receipts_count_among_what_is_read(
    liar: LyingStore, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_read, "_MOST_READ", 1024**2)
    said = json.dumps({"replica": "r2", "key": own_key(replica.workspace).public}).encode()
    logs = [part for number in range(GIVES_UP) for part in (b"%016x" % number, said)]
    receipts = [[b"%d-0" % number, [b"body", b"x" * 400]] for number in range(1, 1001)]
    asked: list[bytes] = []

    def lie(command: list[bytes], true: Any) -> Any:
        if command[0].upper() == b"HGETALL":
            return logs
        if command[0].upper() == b"XRANGE" and command[1].endswith(b":receipts"):
            asked.append(command[1])
            return receipts
        return true

    liar.lie = lie
    await read(replica)
    assert len(asked) == 2


async def test_pages_that_go_backwards_without_end_are_read_up_to_a_bound(
    liar: LyingStore, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_read, "_MOST_READ", 1024**2)
    asked = tell(liar, (page(10**12 - PAGE * number) for number in count()))
    entries, findings = await read(replica)
    assert 10 < len(asked) < 1024**2 // (PAGE * len(BODY))
    assert len(entries) == PAGE * len(asked)
    assert "GiB: what is older was not read; ask for less with --since" in findings[0]
    liar.lie = None
    assert await read(replica) == ([("r1", 1), ("r1", 2)], [])
