"""The live feed by itself: one reader for all, and no memory for those who do not keep up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cloned_proxy.control.feed import Feed, Piece, TooSlowError, wants
from cloned_proxy.control.record import DecisionFilter
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import DecisionEvent, FlowEnd, Kind


def decision(number: int) -> DecisionEvent:
    return DecisionEvent(
        f"{number:024x}", 1.0 + number, Kind.HTTP, "deny", "host_not_allowed", None, None, f"h{number}.example", 80,
        "GET", "/", "", "v", "",
    )  # fmt: skip


def write(path: Path, first: int, count: int) -> None:
    writer = AuditWriter(path, queue=100_000)
    for number in range(first, first + count):
        writer.record(decision(number))
        writer.record(FlowEnd(f"{number:024x}", 1.0, None, 0, 0, 0.0, "closed"))
    writer.close()


async def heard(feed: Feed, at: int, count: int) -> list[Piece]:
    found: list[Piece] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            pieces, at = await feed.after(at, 5)
            found += pieces
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "state.db", 0, 3)
    return tmp_path / "state.db"


async def test_every_listener_hears_what_comes_after_it_came_in_order(path: Path) -> None:
    feed = Feed(path)
    async with feed.listen() as first, feed.listen() as second:
        await asyncio.to_thread(write, path, 3, 5)
        both = await asyncio.gather(heard(feed, first, 5), heard(feed, second, 5))
    for pieces in both:
        assert [piece.body["host"] for piece in pieces] == [f"h{number}.example" for number in range(3, 8)]
        assert [json.loads(piece.text.split(b"data: ")[1])["seq"] for piece in pieces] == [p.seq for p in pieces]
    assert b"spends_use" not in both[0][0].text


async def test_nobody_reads_the_log_while_nobody_listens(path: Path) -> None:
    feed = Feed(path)
    async with feed.listen():
        pass
    await asyncio.sleep(0.6)
    assert feed.listeners == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_who_falls_behind_the_window_is_dropped_and_finds_the_rest_in_the_log(path: Path) -> None:
    feed = Feed(path)
    async with feed.listen() as at, feed.listen() as lively:
        await asyncio.to_thread(write, path, 3, 5200)
        await heard(feed, lively, 5200)
        with pytest.raises(TooSlowError):
            await feed.after(at, 1)
        missed = await feed.backlog(at, 1000)
    assert len(missed) > 400
    assert missed[-1].body["host"] == "h5202.example"


def test_a_filter_is_about_decisions_and_a_name_covers_those_below_it() -> None:
    told = Piece(1, "decision", {"host": "a.example.com", "verdict": "deny", "tool": None}, b"")
    assert wants(DecisionFilter(host="example.com"), told)
    assert wants(DecisionFilter(verdict="deny"), told)
    assert not wants(DecisionFilter(host="ample.com"), told)
    assert not wants(DecisionFilter(tool="demo@v1"), told)
    assert wants(DecisionFilter(host="other.example"), Piece(2, "policy", {}, b""))
