"""Verdicts that the native plane grants by: when each ends, and that none differs from a fresh decision."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import random
import time

import pytest

from cloned_proxy.policy.callers.caller import IdentityRefusal, Principal
from cloned_proxy.policy.callers.identity import Claims, OwnTokens, identify, mint_token
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Limits, Policy
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.proxy.plane.forms import key_of
from cloned_proxy.proxy.plane.verdicts import Published
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.wire.head import parse_head
from cloned_proxy.telemetry.events import Kind
from tests.proxy.plane.looks import DEMO, granted, published, tunnel
from tests.proxy.support import (
    HOST,
    KEY,
    LOOPBACK,
    World,
    allow,
    connect_head,
    policy,
    until,
    upstream,
    world,
)

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize("more", [{"only_ssh": True}, {"max_uses": 5}, {"inject": None, "methods": frozenset({"GET"})}])
async def test_what_needs_another_look_each_time_is_never_published(more: dict[str, object]) -> None:
    async with upstream() as server, world(allow(HOST, server.port, **more)) as w:
        for _ in range(2):
            _, writer = await w.connect()
            writer.write(connect_head(server.port))
            await until(lambda: len(w.audit.verdicts) > 0)
            writer.transport.abort()
        assert [each for each in published(w) if each.grant.kind is not Kind.HTTP] == []


async def test_a_verdict_ends_with_its_credential() -> None:
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=Limits(concurrent=100))
        async with world(current=current) as w:
            token = mint_token(KEY, Claims("demo@v1", "run", time.time() + 2.5))
            field = f"X-Cloned-Tool-Token: {token}\r\n"
            ended = time.monotonic() + 2.5
            for _ in range(3):
                _, writer = await w.tunnel(server.port, headers=field)
                writer.transport.abort()
            assert granted(w) == 1
            await asyncio.sleep(ended - time.monotonic())
            reply = await w.ask(connect_head(server.port, headers=field))
            assert (reply.status, reply.json["reason"]) == (407, "identity_expired")
            assert granted(w) == 1


async def test_a_listener_that_opens_ends_the_verdicts_that_would_dial_it() -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        async with tunnel(w, server.port):
            assert granted(w) == 1
            w.own.add_address("127.0.0.1", server.port)
            w.gate.sweep()
            assert (await w.ask(connect_head(server.port))).json["reason"] == "address_not_allowed"
        await w.settled()
        assert w.audit.ends[0].cause == "revoked:address_not_allowed"


@pytest.mark.parametrize("seed", range(6))
async def test_each_verdict_equals_a_fresh_decision_whatever_changes(seed: int) -> None:
    rng = random.Random(seed)
    host = (HOST, "127.0.0.1")[seed % 2]  # an address needs no look-up: its first verdict is made by a question
    tokens = [mint_token(KEY, Claims(tool, "run", time.time() + 3600)) for tool in ("demo@v1", "other@v1")]
    headers = ["", *(f"X-Cloned-Tool-Token: {token}\r\n" for token in tokens)]

    def any_policy(port: int) -> Policy:
        rules = [allow(host, port, id=f"r-{rng.randrange(3)}", expires=rng.choice([None, time.time() + 0.2]))]
        return policy(*rules[: rng.randrange(2)], limits=rng.choice([None, Limits(concurrent=50)]))

    async with upstream() as server, world(allow(host, server.port)) as w:
        for _ in range(60):
            match rng.randrange(6):
                case 0:
                    w.policies.current = any_policy(server.port)
                case 1:
                    w.enforcer._leases.ended = frozenset({f"r-{rng.randrange(3)}"})  # type: ignore[misc]
                case 2:
                    w.resolver.table[HOST] = (LOOPBACK, ipaddress.ip_address(f"127.0.0.{rng.randrange(1, 4)}"))
                case 3:
                    w.own.add_address("127.0.0.3", rng.choice([server.port, 1]))
                case 4:
                    await asyncio.sleep(0.02)
                case _:
                    reply_to = connect_head(server.port, host, headers=rng.choice(headers))
                    _, writer = await w.connect()
                    writer.write(reply_to)
                    await asyncio.sleep(0.01)
                    writer.transport.abort()
            w.gate.sweep()
            for each in published(w):
                if each.live and time.monotonic() < each.expires:
                    assert_as_decided_now(w, each)


def assert_as_decided_now(w: World, verdict: Published) -> None:
    grant = verdict.grant
    assert not isinstance(grant.caller, IdentityRefusal)
    leases = w.enforcer.basis.leases
    now = decide(
        w.policies.current, grant.caller, grant.decision.request, time.time(), leases.spent, ended=leases.ended
    )
    now = decide_addresses(now, grant.addresses, w.own)
    assert now == grant.decision
    assert verdict.event.policy == (w.policies.current.version if w.policies.current else "")


def test_the_key_of_a_head_is_all_that_identity_looks_at() -> None:
    plain = parse_head(connect_head(443))
    token = mint_token(KEY, Claims("demo@v1", "run", time.time() + 60))
    named = parse_head(connect_head(443, headers=f"X-Cloned-Tool-Token: {token}\r\n"))
    assert identify(plain.fields, tokens=OwnTokens(KEY), now=time.time(), listener=DEMO) == DEMO
    other = parse_head(connect_head(443, headers=f"Proxy-Authorization: {token}\r\n"))
    assert len({key_of(1, plain), key_of(2, plain), key_of(1, named), key_of(1, other)}) == 4


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Rule, ("id scope denies pattern ports methods paths exceptions raw_tcp only_ssh addresses expires max_uses "
                "idle inject registry reason origin preset")),
        (Limits, "concurrent requests_per_minute bytes_per_hour denials_per_minute"),
        (Listener, "socket principal name names only_names header_from"),
        (Principal, "tool run source source_address"),
    ],
)  # fmt: skip
def test_whatever_a_decision_depends_on_is_thought_of(kind: type, fields: str) -> None:
    """Who adds a field asks `verdicts.publishable` whether a grant that depends on it may be given again natively."""
    assert [field.name for field in dataclasses.fields(kind)] == fields.split()
