"""What the API shows: decisions, their stream, the overview, hosts that were blocked or are ignored, runs."""

from __future__ import annotations

import time
from typing import Any

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.telemetry.events import ProbeEvent, RunEvent
from tests.cli.program import TOOL, Serving, Workspace, eventually, policy_text
from tests.control.support import Control, eventually_version, stream


def test_a_denial_is_in_the_decisions_under_the_id_that_the_caller_saw(serving: Serving, browser: Control) -> None:
    denied = serving.get("http://first.example/secret?token=canary")
    told = browser_waits_for(browser, "first.example")
    assert str(told["id"]) in denied.body
    assert (told["verdict"], told["reason"], told["path"]) == ("deny", "host_not_allowed", "/secret")
    assert told["hint"] == "cloned-proxy allow first.example"
    assert browser.api(f"/decisions/{told['id']}") == told
    assert "canary" not in browser.get("/api/v1/decisions").text


def browser_waits_for(browser: Control, host: str) -> dict[str, object]:
    eventually(lambda: browser.api(f"/decisions?host={host}")["items"], what="the decision")
    return dict(browser.api(f"/decisions?host={host}")["items"][0])


def test_decisions_are_filtered_and_paged_without_a_gap(serving: Serving, browser: Control) -> None:
    for number in range(5):
        serving.get(f"http://page-{number}.paged.example/")
    eventually(lambda: len(browser.api("/decisions?host=paged.example")["items"]) == 5)
    seen, before = [], ""
    while True:
        page = browser.api(f"/decisions?host=paged.example&limit=2{before}")
        seen += [item["host"] for item in page["items"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert seen == [f"page-{number}.paged.example" for number in (4, 3, 2, 1, 0)]
    assert browser.api("/decisions?host=aged.example")["items"] == []
    assert browser.api("/decisions?verdict=allow&host=paged.example")["items"] == []
    assert browser.api("/decisions?reason=ip_literal&host=paged.example")["items"] == []
    assert browser.api("/decisions?tool=other@v1&host=paged.example")["items"] == []
    assert browser.api(f"/decisions?host=paged.example&since={time.time() + 60}")["items"] == []
    assert browser.send("GET", "/api/v1/decisions/0123456789abcdef01234567").status == 404


def test_the_stream_tells_at_once_filters_and_resumes(serving: Serving, browser: Control) -> None:
    with stream(browser, "?verdict=deny&host=live.example") as first:
        serving.get("http://other.example/")
        serving.get("http://a.live.example/")
        kind, told, last = next(first.events())
        assert (kind, told["host"], told["seq"]) == ("decision", "a.live.example", last)
    serving.get("http://b.live.example/")
    serving.get("http://c.live.example/")
    with stream(browser, "?host=live.example", last=last) as second:
        events = second.events()
        assert [next(events)[1]["host"] for _ in range(2)] == ["b.live.example", "c.live.example"]


def test_the_overview_tells_of_a_file_that_is_not_accepted(browser: Control, workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    good = eventually_version(browser, workspace)
    workspace.write_policy("version: 1\nmystery: 1\n")
    eventually(lambda: browser.api("/overview")["policy"]["error"], what="the refusal")
    overview = browser.api("/overview")
    assert "mystery" in overview["policy"]["error"]
    assert overview["policy"]["version"] == good
    assert overview["serving"]["ready"] is False
    assert overview["serving"]["problems"] == [], "the error is told once"
    assert browser.get("/api/v1/blocked").status == 200, "what was refused is told by the version in force"
    reply = browser.get("/api/v1/rules")
    assert reply.status == 503
    assert "mystery" in reply.text
    workspace.write_policy(policy_text())
    eventually(lambda: browser.api("/overview")["serving"]["ready"], what="the good file")


def test_the_overview_counts_the_last_hour(serving: Serving, browser: Control) -> None:
    before = browser.api("/overview")["denied_last_hour"]
    serving.get("http://counted.example/")
    eventually(lambda: browser.api("/overview")["denied_last_hour"] == before + 1, what="the count")
    overview = browser.api("/overview")
    assert len(overview["denied_by_hour"]) == 24
    assert overview["denied_by_hour"][-1] == overview["denied_last_hour"]


def test_what_was_blocked_is_grouped_by_host_with_what_would_allow_it(
    serving: Serving, browser: Control, workspace: Workspace
) -> None:
    plain = policy_text(allow=["{host: localhost, ports: [9]}"])
    workspace.write_policy(plain.replace("global:", "global:\n  deny: [tracker.example]"))
    eventually_version(browser, workspace)
    for _ in range(3):
        serving.get("http://grouped.example/a/path")
    serving.get("http://grouped.example:8080/")
    serving.get("http://tracker.example/")
    serving.get("http://0x7f.1/")
    serving.get("http://169.254.169.254/latest/meta-data/")

    def groups() -> dict[str, dict[str, object]]:
        return {group["host"]: group for group in browser.api("/blocked")["groups"]}

    serving.get("http://localhost:9/")
    eventually(
        lambda: {"0x7f.1", "169.254.169.254", "tracker.example", "localhost"} <= groups().keys(), what="the groups"
    )
    first = groups()["grouped.example"]
    assert (first["count"], first["tool"], first["now"]) == (4, None, "refused")
    assert first["reasons"] == [{"reason": "host_not_allowed", "count": 4}]
    assert first["ports"] == [{"port": 80, "count": 3}, {"port": 8080, "count": 1}]
    assert first["offers"] == [
        {"ports": [80, 443], "command": "cloned-proxy allow grouped.example", "methods": ["GET"], "paths": ["/a/path"]},
        {"ports": [8080], "command": "cloned-proxy allow grouped.example:8080", "methods": ["GET"], "paths": ["/"]},
    ]
    assert (groups()["tracker.example"]["offers"], groups()["0x7f.1"]["offers"]) == ([], [])
    assert groups()["tracker.example"]["hint"] == "cloned-proxy remove tracker.example"
    metadata = groups()["169.254.169.254"]
    assert metadata["offers"] == []
    assert metadata["hint"] == "169.254.169.254 is a metadata address; nobody can ask for those"
    assert browser.api("/blocked?tool=nobody@v1")["groups"] == []
    local = groups()["localhost"]
    assert (local["now"], local["refused_class"], local["offers"]) == ("refused", "loopback", [])
    assert local["hint"] == "cloned-proxy allow localhost:9 --private"
    assert browser.post("/rules", {"host": "localhost", "ports": [9], "addresses": ["private"]}).status == 200
    assert groups()["localhost"]["now"] == "allowed"
    assert browser.post("/rules", {"host": "grouped.example"}).status == 200
    assert groups()["grouped.example"]["now"] == "refused", "8080 is still closed"
    assert browser.post("/rules", {"host": "grouped.example", "ports": [8080]}).status == 200
    assert groups()["grouped.example"]["now"] == "allowed"


def test_what_the_page_writes_for_a_host_is_what_the_command_writes(
    serving: Serving, browser: Control, workspace: Workspace
) -> None:
    workspace.write_policy(policy_text())
    eventually_version(browser, workspace)
    before = workspace.policy.read_bytes()
    for url in ("http://same.example/", "http://same.example:8080/"):
        serving.get(url)
    eventually(lambda: len(group_of(browser, "same.example").get("ports", [])) == 2, what="both ports")
    for offer in group_of(browser, "same.example")["offers"]:
        written = {}
        ports = [] if offer["ports"] == [80, 443] else offer["ports"]  # as rule_dialog.js does
        assert browser.post("/rules", {"host": "same.example", "ports": ports}).status == 200
        written["page"] = workspace.policy.read_text()
        workspace.policy.write_bytes(before)
        assert workspace.run(*offer["command"].split()[1:]).returncode == 0
        written["command"] = workspace.policy.read_text()
        workspace.policy.write_bytes(before)
        assert written["page"] == written["command"] != before.decode()


def group_of(browser: Control, host: str) -> dict[str, Any]:
    return next((group for group in browser.api("/blocked")["groups"] if group["host"] == host), {})


def test_an_ignored_host_is_not_shown_stays_refused_and_comes_back(
    serving: Serving, browser: Control, client: Control, workspace: Workspace
) -> None:
    workspace.write_policy(policy_text())
    before = eventually_version(browser, workspace)
    serving.get("http://noisy.example/")
    eventually(lambda: group_of(browser, "noisy.example"), what="the group")
    asked = {"tool": None, "host": "noisy.example", "reason": "telemetry"}
    assert browser.post("/ignored", asked).json == {"changed": True}
    assert browser.post("/ignored", asked).json == {"changed": False}
    assert group_of(browser, "noisy.example") == {}
    assert browser.api("/blocked")["ignored"] == 1
    (hidden,) = browser.api("/blocked?ignored=true")["groups"]
    assert hidden["host"] == "noisy.example"
    assert serving.get("http://noisy.example/").status == 403, "it opens nothing"
    assert (browser.api("/overview")["policy"]["version"], workspace.json("list")["version"]) == (before, before)
    (item,) = client.api("/ignored")["items"]
    assert (item["host"], item["actor"], item["why"]) == ("noisy.example", "device:test browser", "telemetry")
    assert client.delete("/ignored?host=noisy.example").json == {"changed": True}
    assert client.delete("/ignored?host=noisy.example").json == {"changed": False}
    assert group_of(browser, "noisy.example")["count"] == 2
    with AuditLog(workspace.path / "state.db") as log:
        steps = [(entry.body["action"], entry.body["actor"]) for entry in log.entries(types=("ignore",))]
    assert steps == [("ignored", "device:test browser"), ("shown", "device:test client")]


def test_runs_and_the_probe_are_told_as_recorded(browser: Control, workspace: Workspace) -> None:
    with AuditLog(workspace.path / "state.db") as log:
        log.append(RunEvent(time.time(), TOOL, "run-1", "ok", 1.5, 0.3, False, "", "sh -c true"))
        log.append(ProbeEvent(time.time(), True, 74, 13, 3.5, ()))
        log.append(ProbeEvent(time.time(), True, 75, 13, 3.5, (), "cli:me"))
    (run,) = browser.api("/runs")["items"]
    assert (run["tool"], run["run"], run["seconds"], run["command"]) == (TOOL, "run-1", 1.5, "sh -c true")
    probe = browser.api("/probe")["probe"]
    assert (probe["attempts"], probe["actor"]) == (75, "cli:me"), "the newest, whoever made it"
    assert browser.api("/overview")["probe"]["sealed"] is True
