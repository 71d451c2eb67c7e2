"""What takes a permission away takes it away at once, under load and from every gate: judged by what a server gets.

Clients ask all the time, each in its own way. In one turn of the loop the change is made and taken in, and from then on
they write another word: it must not arrive where it is denied now, and must arrive where it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode
from cloned_proxy.proxy.plane.verdicts import Verdicts
from tests.proxy.enforce.refusing import Keyring
from tests.proxy.support import KEY, LOOPBACK, SERVING, Upstream, World, allow, need_plane, upstream, world

LOSES, KEEPS = "loses.example", "keeps.example"
BEFORE, AFTER = "before", "AFTER"
CALLER: Final = "demo@v1"
_FOR_SECONDS: Final = 3600.0


@dataclass
class Clock:
    """The wall clock, which somebody can set."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class Load:
    """Clients of both hosts; `word` is what they write from the next request on."""

    w: World
    ports: dict[str, int]
    fields: dict[str, str]
    """The credential for each host."""
    by_asking: bool = False
    """A tunnel that was asked for before the change may go on: it says so in what it sends."""
    word: str = BEFORE
    done: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Exchanges that came to their end: way, host, word."""

    async def plain(self, host: str) -> None:
        """A request on a connection of its own."""
        async with self._connected() as (reader, writer):
            await self._exchange(reader, writer, "plain", host)

    async def kept(self, host: str) -> None:
        """Requests on one connection, until it ends."""
        async with self._connected() as (reader, writer):
            while True:
                await self._exchange(reader, writer, "kept", host)

    async def tunnel(self, host: str) -> None:
        """A tunnel of its own."""
        asked = self.word
        async with self._tunnel(host) as (reader, writer):
            await self._echo(reader, writer, "tunnel", host, asked if self.by_asking else self.word)

    async def opened(self, host: str) -> None:
        """Bytes through one tunnel, until it ends."""
        async with self._tunnel(host) as (reader, writer):
            while True:
                await self._echo(reader, writer, "opened", host, self.word)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await self.w.connect()
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, host: str) -> None:
        word, authority = self.word, f"{host}:{self.ports[host]}"
        writer.write(f"GET http://{authority}/{word} HTTP/1.1\r\nHost: {authority}\r\n{self.fields[host]}\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError
        await reader.readexactly(2)
        self.done[way, host, word] += 1

    @contextlib.asynccontextmanager
    async def _tunnel(self, host: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with self._connected() as (reader, writer):
            authority = f"{host}:{self.ports[host]}"
            writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{self.fields[host]}\r\n".encode())
            if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 "):
                raise ConnectionError
            yield reader, writer

    async def _echo(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, host: str, word: str
    ) -> None:
        writer.write(f"{word}\n".encode())
        await reader.readuntil(b"\n")
        self.done[way, host, word] += 1


async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
    """Answers a line with itself, and a head with 200."""
    while line := await reader.readuntil(b"\n"):
        seen += line
        if line.startswith(b"GET "):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            writer.write(line)


@dataclass
class Scene:
    w: World
    clock: Clock
    keys: Keyring
    rules: dict[str, Rule]

    @property
    def current(self) -> Policy:
        assert self.w.policies.current is not None
        return self.w.policies.current


def _policy(*rules: Rule) -> Policy:
    return Policy("v1", Mode.ENFORCE, Anonymous.GLOBAL, Scope(allow=HostIndex(rules)), {})


def _without_its_rule(scene: Scene) -> None:
    scene.w.policies.current = replace(_policy(scene.rules[KEEPS]), version="v2")


def _denied_beside_it(scene: Scene) -> None:
    denies = replace(scene.rules[LOSES], id="d-1", denies=True)
    scope = Scope(allow=HostIndex(tuple(scene.rules.values())), deny=HostIndex((denies,)))
    scene.w.policies.current = replace(scene.current, version="v2", global_scope=scope)


def _lease_over(scene: Scene) -> None:
    scene.w.enforcer.basis.leases.ended = frozenset({scene.rules[LOSES].id})  # type: ignore[misc]  # a fake's can be set


def _clock_set(scene: Scene) -> None:
    scene.clock.ahead = _FOR_SECONDS + 1


def _key_rotated(scene: Scene) -> None:
    scene.keys.rotate(b"next" * 8)
    for tell in scene.keys.at_change:
        tell()


def _now_its_own_listener(scene: Scene) -> None:
    """What it leads to is the proxy's own by now."""
    (port,) = scene.rules[LOSES].ports
    scene.w.own.add_address("127.0.0.1", port)


WAYS: Final = "plain", "kept", "tunnel", "opened"
OF_CREDENTIALS: Final = "plain", "kept", "tunnel"
"""A tunnel that is open stays: its credential was good when it was asked for."""


@dataclass(frozen=True)
class Change:
    make: Callable[[Scene], None]
    ways: tuple[str, ...] = WAYS
    by_rule: bool = False
    """The rule says until when it holds."""
    by_token: bool = False
    """The caller has a credential, and the other one has none."""


CHANGES: Final = {
    "its rule is gone": Change(_without_its_rule),
    "another rule denies it": Change(_denied_beside_it),
    "its lease has ended": Change(_lease_over, by_rule=True),
    "its rule has expired by a clock that was set": Change(_clock_set, by_rule=True),
    "its credential has expired by a clock that was set": Change(_clock_set, OF_CREDENTIALS, by_token=True),
    "its key was rotated": Change(_key_rotated, OF_CREDENTIALS, by_token=True),
    "its address has become ours": Change(_now_its_own_listener),
}


async def over_and_over(once: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await once()
        except (OSError, asyncio.IncompleteReadError):  # as ever, where it is denied
            await asyncio.sleep(0.01)


async def enough(load: Load, ways: tuple[str, ...], hosts: tuple[str, ...], word: str, count: int) -> None:
    async with asyncio.timeout(60):
        while any(load.done[way, host, word] < count for way in ways for host in hosts):  # noqa: ASYNC110  see above
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def two_canaries() -> AsyncIterator[tuple[dict[str, Upstream], dict[str, bytearray]]]:
    seen = {LOSES: bytearray(), KEEPS: bytearray()}
    async with (
        upstream(lambda reader, writer: canary(reader, writer, seen[LOSES])) as first,
        upstream(lambda reader, writer: canary(reader, writer, seen[KEEPS])) as second,
    ):
        yield {LOSES: first, KEEPS: second}, seen


async def play(change: Change, *, told: bool = True, stops: bool = True) -> tuple[Load, dict[str, bytearray]]:
    """`told`: the gate is, as the program tells it at once. `stops`: nothing more is to arrive where it is denied."""
    clock, keys = Clock(), Keyring()
    async with two_canaries() as (servers, seen):
        until = time.time() + _FOR_SECONDS
        rules = {host: allow(host, server.port, raw_tcp=True) for host, server in servers.items()}
        if change.by_rule:
            rules[LOSES] = replace(rules[LOSES], expires=until)
        fields = dict.fromkeys(servers, "")
        if change.by_token:
            fields[LOSES] = f"X-Cloned-Tool-Token: {mint_token(KEY, Claims(CALLER, 'run', until))}\r\n"
        async with world(current=_policy(*rules.values()), tokens=keys, clock=clock) as w:
            w.resolver.table.update({LOSES: (LOOPBACK,), KEEPS: (LOOPBACK,)})
            w.publish()
            load = Load(w, {host: server.port for host, server in servers.items()}, fields, by_asking=change.by_token)
            tasks = [
                asyncio.create_task(over_and_over(lambda way=way, host=host: getattr(load, way)(host)))  # type: ignore[misc]
                for way in change.ways
                for host in servers
                for _ in range(2)
            ]
            await enough(load, change.ways, (LOSES, KEEPS), BEFORE, 20)
            change.make(Scene(w, clock, keys, rules))
            if told:
                w.gate.sweep()
            load.word = AFTER
            await enough(load, change.ways, (KEEPS,) if stops else (LOSES, KEEPS), AFTER, 20)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await w.settled()
        return load, seen


@pytest.mark.parametrize("name", CHANGES)
async def test_nothing_arrives_behind_it(name: str) -> None:
    load, seen = await play(CHANGES[name])
    assert AFTER.encode() in seen[KEEPS]
    assert AFTER.encode() not in seen[LOSES]
    assert not any(load.done[way, LOSES, AFTER] for way in WAYS)


async def test_control_what_is_not_taken_in_goes_on_in_an_open_tunnel() -> None:
    _, seen = await play(replace(CHANGES["its rule is gone"], ways=("opened",)), told=False, stops=False)
    assert AFTER.encode() in seen[LOSES]


async def test_control_a_plane_that_forgets_nothing_grants_what_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    need_plane()
    monkeypatch.setattr(SERVING, "native", True)
    monkeypatch.setattr(Verdicts, "forget", lambda _: None)
    _, seen = await play(replace(CHANGES["its rule is gone"], ways=("plain", "tunnel")), stops=False)
    assert AFTER.encode() in seen[LOSES]
