from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.proxy.upstream.lookup import look_up
from cloned_proxy.proxy.upstream.resolver import ResolveError, Resolver
from cloned_proxy.store.settings.config import ProxySettings
from tests.proxy.support import until

ONE = (ipaddress.ip_address("192.0.2.1"),)
NAME = Host("api.example.com")


class SlowNames:
    """A look-up that counts, and blocks for the names it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()
        self.slow: set[str] = set()
        self.error: OSError | None = None

    def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        if name in self.slow:
            self.release.wait(5)
        if self.error is not None:
            raise self.error
        return ONE


def make(names: SlowNames, clock: Callable[[], float] | None = None, **settings: float) -> Resolver:
    chosen = ProxySettings(**settings)  # type: ignore[arg-type]
    return Resolver(chosen, lookup=names, clock=clock) if clock else Resolver(chosen, lookup=names)


async def test_a_literal_is_itself_and_asks_nobody() -> None:
    names = SlowNames()
    assert await make(names).resolve(Host("192.0.2.1", ONE[0])) == ONE
    assert names.asked == []


async def test_answers_are_cached_until_they_expire() -> None:
    names, now = SlowNames(), [0.0]
    resolver = make(names, lambda: now[0], resolver_cache_seconds=30.0)
    for _ in range(3):
        assert await resolver.resolve(NAME) == ONE
    assert len(names.asked) == 1
    now[0] = 30.0
    await resolver.resolve(NAME)
    assert len(names.asked) == 2


async def test_the_dead_names_of_one_tool_leave_room_for_the_others() -> None:
    names = SlowNames()
    names.slow = {f"dead{number}.example.com" for number in range(8)}
    resolver = make(names, resolver_threads=4, resolve_timeout=5.0)
    waiting = [asyncio.ensure_future(resolver.resolve(Host(name), "greedy@v1")) for name in sorted(names.slow)]
    await until(lambda: len(names.asked) == 2)
    async with asyncio.timeout(4):
        assert await resolver.resolve(NAME, "other@v1") == ONE
    names.release.set()
    assert await asyncio.gather(*waiting) == [ONE] * 8


async def test_a_turn_is_held_until_its_thread_is_free_and_no_longer() -> None:
    names = SlowNames()
    names.slow = {"a.example.com", "b.example.com"}
    resolver = make(names, resolver_threads=2, resolve_timeout=0.2)
    for name in ("a.example.com", "b.example.com"):
        with pytest.raises(ResolveError):
            await resolver.resolve(Host(name), "greedy@v1")
    assert names.asked == ["a.example.com"]  # nobody waits for it any more, and its thread is still busy with it
    names.release.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await resolver.resolve(NAME, "greedy@v1") == ONE
                break
            except ResolveError:  # its thread is not back yet
                await asyncio.sleep(0.005)


async def test_failures_are_remembered_for_a_moment_only() -> None:
    names, now = SlowNames(), [0.0]
    names.error = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolver = make(names, lambda: now[0])
    for _ in range(3):
        with pytest.raises(ResolveError) as caught:
            await resolver.resolve(NAME)
        assert not caught.value.timed_out
    assert len(names.asked) == 1
    names.error, now[0] = None, 3.0
    assert await resolver.resolve(NAME) == ONE


async def test_the_cache_is_bounded() -> None:
    names = SlowNames()
    resolver = make(names, resolver_cache_entries=2)
    for label in ("a", "b", "c", "c", "b", "a"):
        await resolver.resolve(Host(label))
    assert names.asked == ["a", "b", "c", "a"]


async def test_many_callers_of_one_name_share_one_look_up_and_cancelling_one_harms_nobody() -> None:
    names = SlowNames()
    names.slow = {NAME.text}
    resolver = make(names)
    callers = [asyncio.ensure_future(resolver.resolve(NAME)) for _ in range(20)]
    await asyncio.sleep(0.05)
    callers[0].cancel()
    await asyncio.sleep(0)
    names.release.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [ONE] * 19
    assert len(names.asked) == 1


async def test_six_slow_names_do_not_stall_a_fast_one() -> None:
    names = SlowNames()
    names.slow = {f"slow{i}" for i in range(6)}
    resolver = make(names)
    slow = [asyncio.ensure_future(resolver.resolve(Host(name))) for name in names.slow]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        assert await resolver.resolve(NAME) == ONE
    names.release.set()
    await asyncio.gather(*slow)


async def test_a_slow_name_times_out() -> None:
    names = SlowNames()
    names.slow = {NAME.text}
    resolver = make(names, resolve_timeout=0.1)
    with pytest.raises(ResolveError) as caught:
        await resolver.resolve(NAME)
    assert caught.value.timed_out
    names.release.set()


async def test_waiting_for_a_thread_counts_towards_the_deadline_and_is_given_up() -> None:
    names = SlowNames()
    names.slow = {"slow"}
    resolver = make(names, resolver_threads=1, resolve_timeout=0.1)
    slow = asyncio.ensure_future(resolver.resolve(Host("slow")))
    await asyncio.sleep(0.02)
    with pytest.raises(ResolveError) as caught:
        await resolver.resolve(NAME)
    assert caught.value.timed_out
    with pytest.raises(ResolveError):
        await slow
    names.release.set()
    await asyncio.sleep(0.05)
    assert names.asked == ["slow"]
    assert await resolver.resolve(NAME) == ONE


async def test_what_was_looked_up_before_forget_is_neither_cached_nor_shared_after_it() -> None:
    names = SlowNames()
    names.slow = {NAME.text}
    resolver = make(names)
    before = asyncio.ensure_future(resolver.resolve(NAME))
    await until(lambda: len(names.asked) == 1)
    resolver.forget()
    after = asyncio.ensure_future(resolver.resolve(NAME))
    await until(lambda: len(names.asked) == 2)
    after.cancel()
    resolver.forget()
    names.release.set()
    assert await before == ONE
    await asyncio.sleep(0.05)
    await resolver.resolve(NAME)
    assert len(names.asked) == 3


async def test_forget_empties_the_cache() -> None:
    names = SlowNames()
    resolver = make(names)
    await resolver.resolve(NAME)
    resolver.forget()
    await resolver.resolve(NAME)
    assert len(names.asked) == 2


def test_the_search_list_never_answers_and_the_hosts_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def getaddrinfo(host: bytes, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [
            (0, 0, 0, "", ("192.0.2.9", 0)),
            (0, 0, 0, "", ("192.0.2.9", 0)),
            (0, 0, 0, "", ("2001:db8::9", 0, 0, 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "192.0.2.7 x.example API.example.com # api2.example.com\nrubbish api.example.com\n::1 api.example.com\n"
    )
    found = look_up("api.example.com", hosts)
    assert found == (ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("::1"))
    assert asked == []
    answer = look_up("api2.example.com", hosts)
    # With the trailing dot the C library asks for this name alone: without it, also for name.suffix of the search list.
    assert asked == [b"api2.example.com."]
    assert answer == (ipaddress.ip_address("192.0.2.9"), ipaddress.ip_address("2001:db8::9"))
    assert look_up("api2.example.com", tmp_path / "missing") == answer
