from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_queue import GATHER_SECONDS, AuditQueue
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.tally import Tally
from cloned_proxy.telemetry.combined import FinishedDecision, RepeatedDecision, is_of_entry, repeated_id
from cloned_proxy.telemetry.events import MANY, DecisionEvent, FlowEnd, Kind, new_decision_id


def denial(host: str = "evil.example.net", at: float = 1000.0) -> DecisionEvent:
    return DecisionEvent(
        new_decision_id(), at, Kind.TUNNEL, "deny", "host_not_allowed", "demo@v1", None, host, 443, "CONNECT", "", "",
        "v1", "",
    )  # fmt: skip


def taken(queue: AuditQueue[DecisionEvent], *, closing: bool = False) -> list[tuple[str, int]]:
    return [(event.host, event.times) for event, _ in queue.take(closing=closing)]


def test_equal_denials_that_wait_together_are_one_entry_in_the_place_of_the_first() -> None:
    queue = AuditQueue[DecisionEvent](100)
    for host in ("a", "b", "a", "a"):
        queue.put_denial(denial(host), "demo@v1", summary=False)
    queue.put_denial(denial("a"), None, summary=False)
    assert taken(queue) == [("a", 3), ("b", 1), ("a", 1)]
    queue.put_denial(denial("a"), "demo@v1", summary=False)
    assert taken(queue) == [("a", 1)]


def test_each_of_them_has_an_id_of_its_own_that_leads_to_the_entry() -> None:
    queue = AuditQueue[DecisionEvent](100)
    ids = [queue.put_denial(denial(at=1000.0 + number), None, summary=False) for number in range(3)]
    [(entry, _)] = queue.take()
    assert isinstance(entry, RepeatedDecision)
    assert (entry.id, entry.at, entry.last) == (ids[0], 1000.0, 1002.0)
    assert len(set(ids)) == 3
    assert all(is_of_entry(each, entry.id, entry.count) for each in ids)
    assert not is_of_entry(repeated_id(entry.id, 3), entry.id, entry.count)
    assert not is_of_entry(new_decision_id(), entry.id, entry.count)


def test_ids_count_on_over_the_end_of_their_digits() -> None:
    first = "0" * 16 + "f" * 8
    assert repeated_id(first, 1) == "0" * 24
    assert is_of_entry("0" * 24, first, 2)
    assert not is_of_entry("0" * 24, first, 1)


def test_a_summary_is_told_at_once_and_then_once_in_a_while() -> None:
    now = 50.0
    queue = AuditQueue[DecisionEvent](100, clock=lambda: now)
    many = replace(denial(MANY), reason="limit_exceeded")
    queue.put_denial(many, None, summary=True)
    assert taken(queue) == [(MANY, 1)]
    for _ in range(5):
        queue.put_denial(many, None, summary=True)
    assert taken(queue) == []
    assert queue.patience(3600.0) == GATHER_SECONDS
    now += GATHER_SECONDS
    assert taken(queue) == [(MANY, 5)]
    queue.put_denial(many, None, summary=True)
    assert len(queue) == 1
    assert taken(queue, closing=True) == [(MANY, 1)]


def test_what_is_one_entry_takes_one_place_of_its_owners_share() -> None:
    queue = AuditQueue[DecisionEvent](4)
    for _ in range(50):
        queue.put_denial(denial(), "demo@v1", summary=False)
    assert not queue.behind("demo@v1")
    queue.done(owner for _, owner in queue.take())
    assert len(queue) == 0


def test_the_log_finds_counts_and_verifies_them(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    writer = AuditWriter(path)
    ids = [writer.denied(denial(), owner="demo@v1") for _ in range(30)]
    writer.close()
    with AuditLog(path) as log, Tally(path) as tally:
        assert log.verify().holds
        entries = list(log.entries(denied=True))
        assert sum(entry.times for entry in entries) == 30
        assert all(log.decision(each) is not None for each in ids)
        assert log.decision(repeated_id(entries[-1].body["id"], entries[-1].times)) is None
        assert tally.count(since=0, verdict="deny") == 30


def exchange() -> tuple[DecisionEvent, FlowEnd]:
    decision = replace(denial(), kind=Kind.HTTP, verdict="allow", reason="allowed", rule="r1")
    return decision, FlowEnd(decision.id, 1000.5, "demo@v1", 10, 20, 0.5, "closed")


def test_a_plain_exchange_that_is_over_before_the_writer_comes_is_one_entry() -> None:
    queue = AuditQueue[DecisionEvent | FlowEnd](4)
    decision, end = exchange()
    queue.put(decision, "demo@v1")
    queue.put(end, "demo@v1")
    [(entry, _)] = queue.take()
    assert isinstance(entry, FinishedDecision)
    assert (entry.id, entry.ended, entry.bytes_up, entry.bytes_down, entry.cause) == (
        decision.id, 1000.5, 10, 20, "closed",
    )  # fmt: skip


def test_an_end_that_comes_later_or_is_a_cut_is_an_entry_of_its_own() -> None:
    queue = AuditQueue[DecisionEvent | FlowEnd](4)
    decision, end = exchange()
    queue.put(decision, None)
    assert [event for event, _ in queue.take()] == [decision]
    queue.put(end, None)
    assert [event for event, _ in queue.take()] == [end]
    queue.put(decision, None)
    queue.put(cut := replace(end, cause="revoked:host_not_allowed"), None)
    assert [event for event, _ in queue.take()] == [decision, cut]
    tunnel = replace(decision, kind=Kind.TUNNEL)
    queue.put(tunnel, None)
    queue.put(end, None)
    assert [event for event, _ in queue.take()] == [tunnel, end]


def test_one_entry_for_both_is_found_counted_and_verified(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    writer = AuditWriter(path)
    decision, end = exchange()
    writer.record(decision)
    writer.record(end)
    writer.close()
    with AuditLog(path) as log, Tally(path) as tally:
        assert log.verify().holds
        assert (found := log.decision(decision.id)) is not None
        assert found.times == 1
        assert log.rule_hits()["r1"].hits == 1
        assert tally.count(since=0) == 1
        bodies = [entry.body for entry in log.entries(types=("decision", "flow_end"))]
    assert sum(body.get("bytes_down", 0) for body in bodies) == 20
