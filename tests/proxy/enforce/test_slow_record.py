"""The enforcer between two awaits: what happens while the disk or the resolver is slow."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Limits, Policy
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.upstream.resolver import Resolver
from cloned_proxy.store.leases.leases import LeaseLedger
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.events import AuditUnavailableError, DecisionEvent, Event, Kind
from cloned_proxy.telemetry.metrics import Metrics
from tests.proxy.support import HOST, Policies, allow, policy, until

TOOL = Principal("demo@v1")
ASKED = Request(HOST, 443)


class SlowAudit:
    """Commits wait for `disk`; what was recorded is kept."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.waiting = 0
        self.disk = asyncio.Event()
        self.broken = False

    def record(self, event: Event, *, owner: str | None = None) -> None:
        self.events.append(event)

    def denied(self, event: DecisionEvent, *, owner: str | None = None, summary: bool = False) -> str:
        self.record(event)
        return event.id

    async def commit(self, event: Event, *, uses: int | None = None, owner: str | None = None) -> None:
        self.waiting += 1
        await self.disk.wait()
        if self.broken:
            raise AuditUnavailableError
        self.events.append(event)

    def behind(self, owner: str | None) -> bool:
        return False

    async def caught_up(self) -> None:
        pass

    @property
    def decisions(self) -> list[DecisionEvent]:
        return [event for event in self.events if isinstance(event, DecisionEvent)]


def enforcer(
    current: Policy, audit: SlowAudit, *, lookup: Callable[[str], tuple[Address, ...]] | None = None
) -> tuple[Enforcer, Policies, Budgets]:
    policies = Policies(current)
    budgets = Budgets(asyncio.get_running_loop().time)
    made = Enforcer(
        policies=policies,
        resolver=Resolver(ProxySettings(), lookup=lookup or (lambda _: (ipaddress.ip_address("127.0.0.1"),))),
        budgets=budgets,
        leases=LeaseLedger({}, lambda _: None),
        audit=audit,
        metrics=Metrics(CollectorRegistry()),
        own_listeners=frozenset(),
        strict_durability=True,
    )
    return made, policies, budgets


async def test_requests_that_wait_for_the_disk_together_stay_within_the_limit() -> None:
    audit = SlowAudit()
    made, _, _ = enforcer(policy(allow(HOST, 443), limits=Limits(concurrent=1)), audit)
    asked = [asyncio.create_task(made.authorise(TOOL, ASKED, Kind.TUNNEL)) for _ in range(5)]
    await until(lambda: audit.waiting > 0 and sum(task.done() for task in asked) + audit.waiting == 5)
    audit.disk.set()
    answers = await asyncio.gather(*asked)
    assert sum(isinstance(answer, Grant) for answer in answers) == 1
    assert {a.decision.reason for a in answers if isinstance(a, Refusal)} == {Reason.LIMIT_EXCEEDED}


async def test_what_is_revoked_while_the_disk_is_slow_is_not_granted() -> None:
    audit = SlowAudit()
    made, policies, budgets = enforcer(policy(allow(HOST, 443)), audit)
    asked = asyncio.create_task(made.authorise(TOOL, ASKED, Kind.TUNNEL))
    await until(lambda: audit.waiting == 1)
    policies.current = policy()
    audit.disk.set()
    answer = await asked
    assert isinstance(answer, Refusal)
    assert answer.decision.reason is Reason.HOST_NOT_ALLOWED
    assert [event.verdict for event in audit.decisions] == ["allow", "deny"]
    assert budgets.usage(TOOL.tool).concurrent == 0


async def test_a_record_that_fails_or_is_cancelled_gives_the_place_back() -> None:
    audit = SlowAudit()
    made, _, budgets = enforcer(policy(allow(HOST, 443)), audit)
    vanished = asyncio.create_task(made.authorise(TOOL, ASKED, Kind.TUNNEL))
    await until(lambda: audit.waiting == 1)
    vanished.cancel()
    await asyncio.gather(vanished, return_exceptions=True)
    assert budgets.usage(TOOL.tool).concurrent == 0
    audit.broken = True
    audit.disk.set()
    answer = await made.authorise(TOOL, ASKED, Kind.TUNNEL)
    assert isinstance(answer, Refusal)
    assert answer.decision.reason is Reason.INTERNAL_ERROR
    assert budgets.usage(TOOL.tool).concurrent == 0


async def test_a_name_that_does_not_resolve_spends_no_use() -> None:
    def fails(_: str) -> tuple[Address, ...]:
        raise OSError

    audit = SlowAudit()
    made, _, _ = enforcer(policy(allow(HOST, 443, max_uses=1)), audit, lookup=fails)
    answer = await made.authorise(TOOL, ASKED, Kind.TUNNEL)
    assert isinstance(answer, Refusal)
    assert answer.phase == "resolve"
    assert [event.spends_use for event in audit.decisions] == [False]
