"""Uses of a lease when several processes share the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.rule import HostPattern, PatternKind, Rule
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.settings.config import AuditSettings
from cloned_proxy.telemetry.events import DecisionEvent, Kind, LeaseUsedUpError

SPENDS = DecisionEvent(
    id="d1", at=1000.0, kind=Kind.TUNNEL, verdict="allow", reason="allowed", tool=None, run=None,
    host="a.test", port=443, method="CONNECT", path="", rule="r-1", policy="abc", hint="", spends_use=True,
)  # fmt: skip


def rule(uses: int) -> Rule:
    return Rule("r-1", "global", False, HostPattern(PatternKind.EXACT, "a.test"), max_uses=uses)


@pytest.fixture
def states(tmp_path: Path) -> Iterator[list[State]]:
    opened = [State(tmp_path / "state.db", AuditSettings(retention_days=36_500)) for _ in range(3)]
    yield opened
    for state in opened:
        state.close()


async def spend(state: State, uses: int, number: int = 0) -> bool:
    try:
        await state.audit.commit(replace(SPENDS, id=f"d{number}"), uses=uses)
    except LeaseUsedUpError:
        return False
    return True


async def test_writers_that_race_for_the_uses_take_exactly_as_many_as_there_are(
    states: list[State], tmp_path: Path
) -> None:
    outcomes = await asyncio.gather(*(spend(states[number % 3], 20, number) for number in range(90)))
    assert sum(outcomes) == 20
    with AuditLog(tmp_path / "state.db") as log:
        assert log.lease_uses() == {"r-1": 20}
        assert len(list(log.entries())) == 20  # what was refused is not on record as a pass
        assert log.verify().holds


async def test_a_refused_use_leaves_the_rest_of_its_group_on_record(states: list[State], tmp_path: Path) -> None:
    assert await spend(states[0], 1)
    other = replace(SPENDS, id="other", rule="r-2", spends_use=False)
    refused, _ = await asyncio.gather(spend(states[1], 1), states[1].audit.commit(other))
    assert refused is False
    with AuditLog(tmp_path / "state.db") as log:
        assert [entry.body["id"] for entry in log.entries()] == ["d0", "other"]


async def test_a_ledger_learns_what_another_process_took(states: list[State]) -> None:
    for state in states:
        state.leases.keep([rule(1)])
    assert await spend(states[0], 1)
    assert list(states[1].leases.spent) == []
    await states[1].follow_leases()
    assert list(states[1].leases.spent) == ["r-1"]
    assert not states[1].leases.take(rule(1))


async def test_a_use_that_the_database_refused_is_known_at_once(states: list[State]) -> None:
    ledger = states[0].leases
    ledger.keep([rule(2)])
    assert ledger.take(rule(2))
    ledger.exhaust(rule(2))
    assert list(ledger.spent) == ["r-1"]
    assert not ledger.take(rule(2))


async def test_only_who_is_told_to_forgets_the_uses_of_a_rule_that_left(states: list[State], tmp_path: Path) -> None:
    first, second, _ = states
    for state in (first, second):
        state.leases.keep([rule(5)])
    assert first.leases.take(rule(5))
    assert await spend(first, 5)
    await second.follow_leases()
    second.leases.keep([], forget=False)
    second.close()
    with AuditLog(tmp_path / "state.db") as log:
        assert log.lease_uses() == {"r-1": 1}
        first.leases.keep([])
        first.close()
        assert log.lease_uses() == {}
