"""A fleet of the tests: its key, a publisher, and replicas that run the real code without a proxy around it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.members.build import Fleet, build
from cloned_proxy.fleet.operating.publish import PublishedPolicy, Publisher
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import Number, Statement, seal_statement
from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.workspace import Workspace

NAMES = Names("acme")
WAIT = 60.0


def policy_for(*hosts: str) -> bytes:
    return f"version: 1\nanonymous: global\nglobal: {{allow: [{', '.join(hosts)}]}}\n".encode()


def envelope(
    policy: bytes, version: int, key: SigningKey, *, epoch: int = 1, fleet: str = "acme", presets: Any = None
) -> bytes:
    statement = Statement(fleet, Number(epoch, version), policy, presets or {}, time.time(), "me", "test")
    return seal_statement(statement, [key])


def put_into(store: Any, policy: bytes, version: int, key: SigningKey, **more: Any) -> None:
    """Writes into the store whatever somebody with its password could."""
    raw = envelope(policy, version, key, **more)
    place(store, raw, version, hashlib.sha256(policy).hexdigest(), fleet=more.get("fleet", "acme"))


def place(store: Any, raw: bytes, version: int, sha256: str = "x", *, fleet: str = "acme") -> None:
    names = Names(fleet)
    with store.client() as client:
        client.hset(names.policy, mapping={"epoch": 1, "version": version, "sha256": sha256, "envelope": raw})
        client.publish(names.policy_news, f"1.{version}")


class Replica:
    """One, in a workspace of its own."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time, **settings: Any) -> None:
        self.workspace = Workspace(root)
        self.settings = FleetSettings(name="acme", **settings)
        self.registry = CollectorRegistry()
        self._clock = clock
        self._parts = AsyncExitStack()
        self.config = Config(fleet=self.settings)
        self.fleet: Fleet | None = None

    async def start(self) -> Replica:
        self.workspace.create()
        self.fleet = build(
            self.workspace,
            self.config,
            self.settings,
            local_file=self.workspace.policy_file,
            registry=self.registry,
            clock=self._clock,
        )
        await self.fleet.policy.start()
        self._parts.push_async_callback(self.fleet.policy.stop)
        await self.fleet.start(self._parts)
        return self

    async def stop(self) -> None:
        await self._parts.aclose()
        self._parts = AsyncExitStack()

    @property
    def policy(self) -> Any:
        assert self.fleet is not None
        return self.fleet.policy

    def allows(self, host: str) -> bool:
        return decide(self.policy.current, ANONYMOUS, Request(host, 443), time.time()).passes

    def reason(self, host: str) -> str:
        return decide(self.policy.current, ANONYMOUS, Request(host, 443), time.time()).reason

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"cloned_proxy_fleet_{name}", labels)

    async def until(self, true: Callable[[], object]) -> None:
        """Waits for what the replica's own tasks bring about."""
        async with asyncio.timeout(WAIT):
            while not true():  # noqa: ASYNC110  no event says it
                await asyncio.sleep(0.005)

    async def until_version(self, version: int, epoch: int = 1) -> None:
        await self.until(lambda: self.policy.number == (epoch, version))

    async def until_refused(self, reason: str, count: float = 1) -> None:
        await self.until(lambda: (self.metric("refused_total", reason=reason) or 0) >= count)


async def publish(store_url: str, key: SigningKey, policy: bytes, root: Path, **more: Any) -> PublishedPolicy:
    settings = FleetSettings(name="acme", store=store_url, trust=[key.public])
    async with Link(settings, base=root) as link:
        publisher = Publisher(
            link, NAMES, fleet="acme", trust=Trust([key.public]), keys=[key], record=root / "published.json"
        )
        return await publisher.publish(policy, {}, author="me", reason="test", **more)
