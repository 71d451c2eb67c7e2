"""The log, exported to a real OTLP/HTTP receiver: what arrives is decoded by OpenTelemetry's own messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from cloned_proxy.store.audit import otlp_export
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.otlp_export import OtlpExport
from cloned_proxy.telemetry.events import FlowEnd
from cloned_proxy.telemetry.otlp import Collector, Exported, PartialSuccess, trace_id
from tests.cli.program import eventually
from tests.store.audit.collector import Receiver, attributes, number_of
from tests.telemetry.test_metrics import EVENT

ID = "0123456789abcdef01234567"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog(tmp_path / "state.db") as found:
        yield found


def export(tmp_path: Path, receiver: Receiver) -> tuple[OtlpExport, CollectorRegistry]:
    registry = CollectorRegistry()
    found = OtlpExport(tmp_path, tmp_path / "state.db", receiver.url, registry)
    found.start()
    return found, registry


def append(log: AuditLog, *numbers: int) -> None:
    for number in numbers:
        log.append(replace(EVENT, id=f"{number:024x}"))


def ids(receiver: Receiver) -> list[int]:
    return [number_of(record) for record in receiver.records]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_export, "_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(otlp_export, "_LONGEST_PAUSE", 0.05)


def begin_at(tmp_path: Path, seq: int) -> Path:
    """The cursor, as if an export had got as far as `seq`."""
    cursor = tmp_path / "run/otlp.seq"
    cursor.parent.mkdir(exist_ok=True)
    cursor.write_text(f"{seq}\n")
    return cursor


def counted(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    """Entries that were exported, and those that were left out."""
    names = ("cloned_proxy_otlp_exported_total", "cloned_proxy_otlp_dropped_total")
    exported, dropped = map(registry.get_sample_value, names)
    return exported, dropped


def test_a_restart_goes_on_where_the_last_export_stopped(
    tmp_path: Path, log: AuditLog, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_export, "_EVERY_SECONDS", 0.05)
    append(log, 1)
    first, _ = export(tmp_path, receiver)
    cursor = tmp_path / "run/otlp.seq"
    eventually(cursor.exists, what="a beginning")  # what was there before is old
    append(log, 2)
    first.close()
    assert ids(receiver) == [2]
    receiver.status = 503
    second, registry = export(tmp_path, receiver)
    append(log, 3)
    eventually(lambda: receiver.asked > 1, what="a refused export")
    second.close()
    assert registry.get_sample_value("cloned_proxy_otlp_exported_total") == 0
    receiver.status = 200
    third, registry = export(tmp_path, receiver)
    eventually(lambda: ids(receiver) == [2, 3], what="the rest")
    third.close()
    assert registry.get_sample_value("cloned_proxy_otlp_exported_total") == 1


def test_what_lies_too_far_back_is_dropped_and_counted(
    tmp_path: Path, log: AuditLog, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_export, "_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(otlp_export, "MOST_BEHIND", 3)
    append(log, 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/otlp.seq").write_text("1\n")
    append(log, *range(2, 12))
    receiver.status = 503
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: receiver.asked > 1, what="a second try")  # which counts nothing once more
    receiver.status = 200
    eventually(lambda: ids(receiver) == [9, 10, 11], what="the newest three")
    exporter.close()
    assert registry.get_sample_value("cloned_proxy_otlp_dropped_total") == 7


def test_the_end_of_a_flow_belongs_to_its_decision(
    tmp_path: Path, log: AuditLog, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_export, "_EVERY_SECONDS", 0.05)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/otlp.seq").write_text("0\n")
    log.append(FlowEnd(ID, 5.0, "t", 1, 2, 0.5, "closed"))
    exporter, _ = export(tmp_path, receiver)
    eventually(lambda: receiver.records, what="the record")
    exporter.close()
    (record,) = receiver.records
    assert (record.event_name, record.trace_id) == ("cloned_proxy.flow_end", trace_id(ID))
    assert attributes(record)["cloned.bytes_down"] == 2


@pytest.mark.usefixtures("quick")
def test_a_request_is_bounded_by_bytes_and_halved_when_it_is_too_large(
    tmp_path: Path, log: AuditLog, receiver: Receiver
) -> None:
    begin_at(tmp_path, 0)
    for number in range(40):
        log.append(replace(EVENT, id=f"{number:024x}", path="x" * 100_000))
    receiver.limit = 400_000
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: ids(receiver) == list(range(40)), what="all of them, in their order")
    exporter.close()
    assert max(receiver.sizes) < 2**20 + 1000
    assert counted(registry) == (40, 0)


@pytest.mark.usefixtures("quick")
def test_one_entry_that_is_too_large_stops_no_other(
    tmp_path: Path, log: AuditLog, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    cursor = begin_at(tmp_path, 0)
    append(log, 1, 2)
    log.append(replace(EVENT, id=f"{3:024x}", path="x" * 1_500_000))
    append(log, 4)
    receiver.limit = 1_000_000
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: ids(receiver) == [1, 2, 4], what="the others")
    exporter.close()
    assert counted(registry) == (3, 1)
    assert cursor.read_text() == "4\n"
    said = capsys.readouterr().out
    assert said.count("left out") == 1
    assert "seq=3" in said


@pytest.mark.usefixtures("quick")
def test_entries_that_the_collector_cannot_read_stop_no_other(
    tmp_path: Path, log: AuditLog, receiver: Receiver
) -> None:
    begin_at(tmp_path, 0)
    receiver.poison = {1, 7, 8, 20}
    append(log, *range(1, 21))
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: ids(receiver) == sorted(set(range(1, 21)) - receiver.poison), what="the others")
    eventually(lambda: counted(registry) == (16, 4), what="the last one left out")
    exporter.close()


@pytest.mark.usefixtures("quick")
def test_a_collector_that_has_a_bad_moment_loses_nothing(tmp_path: Path, log: AuditLog, receiver: Receiver) -> None:
    cursor = begin_at(tmp_path, 0)
    append(log, *range(1, 21))
    for receiver.status in (401, 404, 429, 503):
        exporter, registry = export(tmp_path, receiver)
        receiver.asked = 0
        eventually(lambda: receiver.asked > 1, what="a second try")
        exporter.close()
        assert counted(registry) == (0, 0)
        assert cursor.read_text() == "0\n"


@pytest.mark.usefixtures("quick")
def test_records_that_the_collector_does_not_keep_are_not_exported(
    tmp_path: Path, log: AuditLog, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_at(tmp_path, 0)
    receiver.rejects = 3
    append(log, *range(1, 11))
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: counted(registry) == (7, 3), what="the count")
    exporter.close()
    assert receiver.asked == 1
    assert "no room" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_what_no_record_can_hold_is_left_out_and_what_one_can_hold_is_not(
    tmp_path: Path, log: AuditLog, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_at(tmp_path, 0)
    log.append(replace(EVENT, id=f"{1:024x}", path="/\udcff"))
    log.append(FlowEnd(ID, 5.0, "t", 2**63, 2, 0.5, "closed"))
    log.append(FlowEnd(ID, -5.0, "t", 1, 2, 0.5, "before the epoch"))
    append(log, 4)
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: len(receiver.records) == 3, what="the others")
    exporter.close()
    assert counted(registry) == (3, 1)
    first, second, _ = map(attributes, receiver.records)
    assert first["url.path"] == "/?"
    assert second["cloned.bytes_up"] == str(2**63)
    assert "seq=3" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_nothing_unexpected_ends_the_export(
    tmp_path: Path, log: AuditLog, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at(tmp_path, 0)
    append(log, 1)
    faults = iter([RuntimeError("a fault"), httpx.InvalidURL("a bad one"), AssertionError()])
    send = Collector.send

    def fails_thrice(collector: Collector, entries: Sequence[Exported]) -> PartialSuccess:
        for fault in faults:
            raise fault
        return send(collector, entries)

    monkeypatch.setattr(Collector, "send", fails_thrice)
    exporter, registry = export(tmp_path, receiver)
    eventually(lambda: ids(receiver) == [1], what="the entry")
    exporter.close()
    assert counted(registry) == (1, 0)


def test_anything_but_hex_has_no_trace() -> None:
    assert [trace_id(text) for text in ("", "zz", "00" * 17)] == [b"", b"", b""]
