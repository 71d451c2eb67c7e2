"""What a request holds of its tool's budget, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.transport.listener import OwnListeners
from cloned_proxy.telemetry.events import AuditUnavailableError, DecisionEvent, Event, Kind, LeaseUsedUpError
from tests.proxy.support import HOST, World, allow, upstream, world

PORT = 443
REQUEST = Request(HOST, PORT)


def concurrent(w: World) -> int:
    return w.enforcer._budgets.usage(None).concurrent


def failing(error: Exception) -> Callable[..., object]:
    async def commit(event: Event, *, uses: int | None = None, owner: str | None = None) -> None:
        raise error

    return commit


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LeaseUsedUpError(), Reason.LEASE_USED_UP),
        (AuditUnavailableError(), Reason.INTERNAL_ERROR),
        (RuntimeError("a fault"), Reason.INTERNAL_ERROR),
    ],
    ids=["another process took the last use", "no record", "a fault"],
)
async def test_a_request_that_is_refused_at_its_record_holds_no_place(error: Exception, reason: Reason) -> None:
    async with world(allow(HOST, PORT, max_uses=5)) as w:
        w.audit.commit = failing(error)  # type: ignore[method-assign,assignment]  # the disk's part
        refused = await w.enforcer.authorise(ANONYMOUS, REQUEST, Kind.TUNNEL)
        assert isinstance(refused, Refusal)
        assert refused.decision.reason is reason
        assert concurrent(w) == 0


async def test_a_log_that_fails_takes_no_place() -> None:
    async with world(allow(HOST, PORT)) as w:
        w.audit.broken = True
        refused = await w.enforcer.authorise(ANONYMOUS, REQUEST, Kind.TUNNEL)
        assert isinstance(refused, Refusal)
        assert concurrent(w) == 0


async def test_a_grant_holds_a_place_until_it_ends() -> None:
    async with world(allow(HOST, PORT)) as w:
        grant = await w.enforcer.authorise(ANONYMOUS, REQUEST, Kind.TUNNEL)
        assert isinstance(grant, Grant)
        assert concurrent(w) == 1
        w.enforcer.finish(grant, "closed")
        w.enforcer.finish(grant, "closed")
        assert concurrent(w) == 0


async def test_a_name_that_does_not_resolve_spends_no_use() -> None:
    async with world(allow("gone.example.com", PORT, max_uses=1)) as w:
        refused = await w.enforcer.authorise(ANONYMOUS, Request("gone.example.com", PORT), Kind.TUNNEL)
        assert isinstance(refused, Refusal)
        assert refused.phase == "resolve"
        assert [event.spends_use for event in w.audit.events if isinstance(event, DecisionEvent)] == [False]


async def test_a_flow_that_cannot_be_reviewed_no_longer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        grant = await w.enforcer.authorise(ANONYMOUS, Request(HOST, server.port), Kind.TUNNEL)
        assert isinstance(grant, Grant)
        assert w.enforcer.review(grant).passes

        def broken(*_: object) -> bool:
            raise OSError("no descriptor left")

        monkeypatch.setattr(OwnListeners, "__contains__", broken)
        assert w.enforcer.review(grant).reason is Reason.INTERNAL_ERROR
        w.enforcer.finish(grant, "closed")
