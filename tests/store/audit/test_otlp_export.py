"""The log, exported to a real OTLP/HTTP receiver: what arrives is decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import http.server
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from prometheus_client import CollectorRegistry

from cloned_proxy.store.audit import otlp_export
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.otlp_export import OtlpExport
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import load_config
from cloned_proxy.telemetry.events import FlowEnd
from cloned_proxy.telemetry.otlp import Collector, Exported, PartialSuccess, trace_id
from tests.cli.conftest import workspace
from tests.cli.program import Workspace, eventually, policy_text
from tests.telemetry.test_metrics import EVENT

__all__ = ["workspace"]

ID = "0123456789abcdef01234567"


class Receiver:
    """Takes `/v1/logs` on loopback, or answers `status` while that is not 200, or nothing while it hangs.

    A request of more than `limit` bytes is answered 413, one with an entry of `poison` 400, and `rejects` is how many
    records of each request it does not keep.
    """

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.resource: dict[str, str] = {}
        self.status = 200
        self.limit = 2**30
        self.poison: set[int] = set()
        self.rejects = 0
        self.sizes: list[int] = []
        self.hang = threading.Event()
        self.hang.set()
        self.asked = 0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.asked += 1
                receiver.hang.wait(30)
                data = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                assert (self.path, self.headers["Content-Type"]) == ("/v1/logs", "application/x-protobuf")
                status, content = receiver.answer(data)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answer(self, data: bytes) -> tuple[int, bytes]:
        self.sizes.append(len(data))
        request = ExportLogsServiceRequest.FromString(data)
        said = ExportLogsServiceResponse()
        if self.rejects:
            said.partial_success.rejected_log_records = self.rejects
            said.partial_success.error_message = "no room"
        if self.status != 200:
            return self.status, b""
        if len(data) > self.limit:
            return 413, b""
        if self.poison & {number_of(r) for scope in request.resource_logs[0].scope_logs for r in scope.log_records}:
            return 400, b""
        self.take(request)
        return 200, said.SerializeToString()

    def take(self, request: ExportLogsServiceRequest) -> None:
        (resource,) = request.resource_logs
        self.resource = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        for scope in resource.scope_logs:
            self.records += scope.log_records

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def attributes(record: LogRecord) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in record.attributes}


def test_a_denied_call_of_a_real_serve_arrives_with_its_decisions_id(workspace: Workspace, receiver: Receiver) -> None:
    workspace.write_policy(policy_text())
    (workspace.path / "config.yaml").write_text(f"telemetry: {{otlp_endpoint: '{receiver.url}'}}\n")
    serving = workspace.serve()
    answer = serving.get("http://exfil.example/a?secret=1")
    eventually(lambda: any(r.event_name == "cloned_proxy.decision" for r in receiver.records), what="the record")
    (record,) = [r for r in receiver.records if r.event_name == "cloned_proxy.decision"]
    found = attributes(record)
    assert found["cloned.id"] in answer.body
    assert record.trace_id.hex() == f"00000000{found['cloned.id']}"
    assert (found["server.address"], found["server.port"], found["url.path"]) == ("exfil.example", 80, "/a")
    assert (found["cloned.verdict"], found["cloned.reason"]) == ("deny", "host_not_allowed")
    assert (record.severity_text, record.body.string_value) == ("WARN", "decision deny host_not_allowed")
    assert abs(record.time_unix_nano / 1e9 - time.time()) < 60
    assert receiver.resource["service.name"] == "cloned-proxy"
    assert "secret" not in str(receiver.records)
    assert "cloned_proxy_otlp_exported_total" in serving.page("/metrics").body


def test_a_collector_that_hangs_costs_traffic_nothing(workspace: Workspace, receiver: Receiver) -> None:
    workspace.write_policy(policy_text())
    (workspace.path / "config.yaml").write_text(f"telemetry: {{otlp_endpoint: '{receiver.url}'}}\n")
    serving = workspace.serve()
    receiver.hang.clear()
    serving.get("http://first.example/")
    eventually(lambda: receiver.asked, what="an export that hangs")
    for number in range(20):
        assert serving.get(f"http://host{number}.example/").status == 403
    assert serving.page("/readyz").status == 200
    receiver.hang.set()
    hosts = {f"host{number}.example" for number in range(20)}
    eventually(lambda: hosts <= {attributes(r).get("server.address") for r in receiver.records}, what="all of them")


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


def number_of(record: LogRecord) -> int:
    return int(str(attributes(record).get("cloned.id", "-1")), 16)


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


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://127.0.0.1", "http://user:secret@collector", "http://c/v1/logs", "collector",
     "http://collector:4318x", "http://[::1", "http://xn--", "http://collector:99999", "http://collector:0", "http://:4318"],
)  # fmt: skip
def test_an_endpoint_that_is_no_base_url_is_refused(tmp_path: Path, endpoint: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"telemetry: {{otlp_endpoint: '{endpoint}'}}\n")
    with pytest.raises(StoreError) as refused:
        load_config(config)
    assert "config.yaml:1: telemetry.otlp_endpoint: this is not the base URL of a collector" in str(refused.value)
    assert "write one such as http://127.0.0.1:4318" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_refused_endpoint_ends_serve_at_its_start(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    (workspace.path / "config.yaml").write_text("telemetry: {otlp_endpoint: 'http://user:secret@collector'}\n")
    done = workspace.run("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off")
    assert done.returncode == 2
    assert "config.yaml:1: telemetry.otlp_endpoint: this is not the base URL of a collector" in done.stderr
    assert "secret" not in done.stderr


def test_anything_but_hex_has_no_trace() -> None:
    assert [trace_id(text) for text in ("", "zz", "00" * 17)] == [b"", b"", b""]
