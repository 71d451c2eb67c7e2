"""The operations of the API against a real proxy: what they tell is true, and what they change acts."""

from __future__ import annotations

import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.workspaces.workspace import Workspace as StoreWorkspace
from cloned_proxy.telemetry.events import ProbeEvent, RunEvent
from tests.cli.program import TOOL, Origin, Serving, Workspace, eventually, literal, policy_text
from tests.control.support import Control, stream


@pytest.fixture
def open_policy(workspace: Workspace, origin: Origin, serving: Serving) -> str:
    """A policy that allows the origin, raw tunnels included; returns its version."""
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    eventually(lambda: serving.get(origin.url()).status == 200, what="the new policy")
    return str(workspace.json("list")["version"])


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


def test_a_rule_of_the_api_acts_is_recorded_as_the_devices_and_is_taken_back(
    serving: Serving, browser: Control, workspace: Workspace, origin: Origin
) -> None:
    workspace.write_policy(policy_text())
    version = eventually_version(browser, workspace)
    with stream(browser) as told:
        asked = {"host": "127.0.0.1", "ports": [origin.port], "for": "30m", "reason": "try it"}
        reply = browser.post("/rules", {**asked, "expected_version": version})
        assert reply.status == 200, reply
        edit = told.next("policy")
    assert (edit["action"], edit["actor"], edit["why"]) == ("edit", "device:test browser", "try it")
    eventually(lambda: serving.get(origin.url()).status == 200, what="the rule")
    (rule,) = [rule for rule in browser.api("/rules")["items"] if rule["host"] == "127.0.0.1"]
    assert rule["id"] in reply.json["rule_ids"]
    assert 1700 < rule["expires"] - time.time() < 1802
    eventually(lambda: rule_hits(browser, rule["id"]) == 1, what="the hit")
    assert browser.delete(f"/rules/{rule['id']}?expected_version={version}").status == 409
    now = browser.api("/rules")["version"]
    assert browser.delete(f"/rules/{rule['id']}?expected_version={now}").status == 200
    eventually(lambda: refused(serving, origin), what="the end of the rule")
    assert browser.delete(f"/rules/{rule['id']}").status == 404


def refused(serving: Serving, origin: Origin) -> bool:
    """A call under way when its rule goes is cut instead."""
    try:
        return serving.get(origin.url()).status == 403
    except ConnectionResetError:
        return False


def rule_hits(browser: Control, identifier: str) -> int:
    return sum(rule["hits"] for rule in browser.api("/rules")["items"] if rule["id"] == identifier)


def eventually_version(browser: Control, workspace: Workspace) -> str:
    wanted = str(workspace.json("list")["version"])
    eventually(lambda: browser.api("/overview")["policy"]["version"] == wanted, what="the version in force")
    return wanted


def test_a_rule_for_a_tool_lands_in_its_own_list_in_every_detail(browser: Control, workspace: Workspace) -> None:
    asked = {
        "action": "allow",
        "tool": TOOL,
        "host": "api.example.com",
        "ports": [443],
        "methods": ["GET"],
        "paths": ["/v1/**"],
        "uses": 3,
        "for": 90,
        "reason": "narrow",
    }
    assert browser.post("/rules", asked).status == 200
    (rule,) = browser.api(f"/rules?tool={TOOL}")["items"]
    told = {name: rule[name] for name in ("scope", "host", "ports", "methods", "paths", "uses_left", "reason")}
    assert told == {
        "scope": TOOL,
        "host": "api.example.com",
        "ports": [443],
        "methods": ["GET"],
        "paths": ["/v1/**"],
        "uses_left": 3,
        "reason": "narrow",
    }
    assert browser.post("/rules", {"action": "deny", "host": "tracker.example.com"}).status == 200
    assert "deny" in {rule["action"] for rule in browser.api("/rules")["items"]}


def test_an_edit_by_hand_between_look_and_click_is_a_conflict(browser: Control, workspace: Workspace) -> None:
    seen = browser.api("/rules")["version"]
    workspace.write_policy(policy_text(allow=["by-hand.example"]))
    before = workspace.policy.read_bytes()
    reply = browser.post("/rules", {"host": "other.example", "expected_version": seen})
    assert reply.status == 409
    assert reply.json["version"] == workspace.json("list")["version"]
    assert workspace.policy.read_bytes() == before


def test_history_tells_who_and_what_and_goes_back(browser: Control, workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["old.example"]))
    old = eventually_version(browser, workspace)
    # `serve` writes down what was changed by hand once it is in force: an edit that came before it would be older.
    eventually(lambda: browser.api("/history")["items"][0]["version"] == old, what="the record of the change by hand")
    text = workspace.policy.read_text()
    assert browser.post("/rules", {"host": "new.example"}).status == 200
    newest = browser.api("/history")["items"][0]
    assert (newest["actor"], newest["current"]) == ("device:test browser", True)
    assert "+    - new.example" in browser.api(f"/history/{newest['version']}")["diff"]
    assert browser.api(f"/history/{old}")["text"] == text
    stale = {"reason": "back", "expected_version": old}
    assert browser.post(f"/history/{old}/restore", stale).status == 409
    assert browser.post(f"/history/{old}/restore", {**stale, "expected_version": newest["version"]}).status == 200
    assert workspace.policy.read_text() == text
    assert browser.get("/api/v1/history/0123456789ab").status == 404
    assert browser.post("/history/0123456789ab/restore", {}).status == 404


def test_a_tunnel_is_listed_and_cut_and_the_cut_is_on_record(
    serving: Serving, browser: Control, workspace: Workspace, origin: Origin, open_policy: str
) -> None:
    place = f"127.0.0.1:{origin.port}"
    with socket.create_connection(("127.0.0.1", serving.port), timeout=90) as client:
        client.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\n\r\n")
        answer = b""
        while b"reached" not in answer:
            answer += client.recv(4096)
        (tunnel,) = browser.api("/tunnels")["items"]
        assert (tunnel["host"], tunnel["port"], tunnel["policy"]) == ("127.0.0.1", origin.port, open_policy)
        assert abs(tunnel["since"] - time.time()) < 30
        assert tunnel["bytes_up"] > 20
        assert browser.api("/overview")["open_tunnels"] == 1
        assert browser.post(f"/tunnels/{tunnel['id']}/cut", {}).json == {"cut": True}
        with pytest.raises(ConnectionResetError):
            client.recv(4096)
    assert browser.api("/tunnels")["items"] == []
    assert browser.post(f"/tunnels/{tunnel['id']}/cut", {}).status == 404
    ends = eventually_ends(workspace, tunnel["id"])
    assert ends == ["cut:device:test browser"]


def eventually_ends(workspace: Workspace, decision: str) -> list[str]:
    def causes() -> list[str]:
        with AuditLog(workspace.path / "state.db") as log:
            ends = log.entries(types=("flow_end",))
            return [entry.body["cause"] for entry in ends if entry.body["decision"] == decision]

    eventually(causes, what="the end of the tunnel on record")
    return causes()


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


def test_every_operation_is_described_and_every_described_one_is_there(browser: Control) -> None:
    document = browser.api("/openapi.json")
    assert document["openapi"].startswith("3.1")
    operations = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert len(operations) > 20
    for method, path in operations:
        other = "DELETE" if method == "GET" and ("DELETE", path) not in operations else "PATCH"
        reply = browser.send(other, path.replace("{id}", "x").replace("{version}", "x"))
        assert reply.status in (404, 405), (other, path, reply)


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


def test_a_rule_is_changed_where_it_stands_and_a_lease_extended(browser: Control, workspace: Workspace) -> None:
    rule = '{host: kept.example, ports: [443], expires: 2126-12-01T00:00:00Z, max_uses: 5, reason: "why"}  # of ours'
    workspace.write_policy(policy_text(allow=["first.example", rule, "last.example"]))
    found = {item["host"]: item for item in browser.api("/rules")["items"]}
    kept = found["kept.example"]
    assert kept["place"] == "ws/policy.yaml:7"
    version = browser.api("/rules")["version"]
    asked = {"for": "2h", "expected_version": version}
    assert browser.post(f"/rules/{kept['id']}", asked).status == 200
    assert browser.post(f"/rules/{kept['id']}", asked).status == 409
    (extended,) = [item for item in browser.api("/rules")["items"] if item["host"] == "kept.example"]
    assert 7100 < extended["expires"] - time.time() < 7202
    told = ("id", "ports", "max_uses", "reason", "place")
    assert {name: extended[name] for name in told} == {name: kept[name] for name in told}
    assert "# of ours" in workspace.policy.read_text()
    change = {"ports": None, "for": None, "uses": None, "methods": ["GET"], "reason": ""}
    assert browser.post(f"/rules/{kept['id']}", change).status == 200
    assert "- {host: kept.example, methods: [GET]}  # of ours\n" in workspace.policy.read_text()
    assert browser.post(f"/rules/{kept['id']}", change).status == 404, "with other ports it is another rule"
    plain = found["last.example"]["id"]
    assert browser.post(f"/rules/{plain}", {}).status == 422
    assert browser.post(f"/rules/{plain}", {"ports": [0]}).status == 422
    assert browser.post(f"/rules/{plain}", {"paths": ["no slash"]}).status == 422
    assert workspace.run("policy", "history").stdout.count("change rule") == 2


def test_a_roll_back_is_looked_at_as_of_now(browser: Control, workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["one.example"]))
    old = eventually_version(browser, workspace)
    for host in ("two.example", "three.example"):
        assert browser.post("/rules", {"host": host}).status == 200
    before = workspace.policy.read_bytes()
    preview = browser.post(f"/history/{old}/restore", {"dry_run": True}).json
    assert [line for line in preview["diff"].splitlines() if line[:2] in ("- ", "+ ")] == [
        "-    - two.example",
        "-    - three.example",
    ]
    assert workspace.policy.read_bytes() == before
    shown = workspace.run("policy", "restore", old, "--dry-run").stdout
    assert preview["diff"].strip() == shown.strip()


def test_a_hand_edit_is_titled_by_what_it_changed(browser: Control, workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["one.example"]))
    eventually_version(browser, workspace)
    workspace.write_policy(policy_text(allow=["one.example", "two.example"]))
    version = eventually_version(browser, workspace)
    eventually(lambda: browser.api("/history")["items"][0]["version"] == version, what="the version in the history")
    newest = browser.api("/history")["items"][0]
    assert (newest["actor"], newest["summary"]) == ("file", "edited by hand: +1 rule (two.example)")


def test_an_approval_is_decided_once_by_the_device_that_said_so(browser: Control, workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    service = ApprovalService(StoreWorkspace(workspace.path), workspace.policy)
    ids = [
        service.ask(TOOL, Proposal((Entry(f"wanted-{number}.example"),), TOOL, reason="the report"), origin="tool").id
        for number in range(3)
    ]
    assert {item["id"] for item in browser.api("/approvals?state=pending")["items"]} >= set(ids)
    assert browser.api("/overview")["pending"] >= 3
    detail = browser.api(f"/approvals/{ids[0]}")
    assert detail["entries"][0]["host"] == "wanted-0.example"
    seen = detail["evidence"]["policy_version"]

    yes = {"choice": "proposed", "for": "1m", "reason": "looks fine", "expected_version": seen}
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(lambda _: browser.post(f"/approvals/{ids[0]}/approve", yes).status, range(4)))
    assert statuses == [200, 409, 409, 409]
    assert "wanted-0.example" in workspace.policy.read_text()
    decided = browser.api(f"/approvals/{ids[0]}")
    assert (decided["state"], decided["decided_by"]) == ("approved", "device:test browser")

    before = workspace.policy.read_bytes()
    reply = browser.post(f"/approvals/{ids[1]}/approve", {"expected_version": seen})
    assert reply.status == 409, "the policy has moved on since the look"
    assert reply.json["version"] != seen
    assert browser.post(f"/approvals/{ids[1]}/reject", {"reason": "no"}).json["state"] == "rejected"
    assert browser.post(f"/approvals/{ids[1]}/approve", {}).status == 409
    assert browser.post(f"/approvals/{ids[2]}/approve", {"choice": "narrowest"}).status == 422
    assert browser.get("/api/v1/approvals/a-0000000000").status == 404
    assert workspace.policy.read_bytes() == before


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


def test_a_locked_state_is_told_and_nothing_is_half_applied(
    control: Control, browser: Control, workspace: Workspace
) -> None:
    code, before = control.code(), workspace.policy.read_bytes()
    with closing(sqlite3.connect(workspace.path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert browser.get("/api/v1/decisions").status == 200, "reading does not wait for a writer"
        with ThreadPoolExecutor(2) as pool:
            paired = pool.submit(control.post, "/pair", {"code": code})
            added = pool.submit(browser.post, "/rules", {"host": "while-locked.example"})
        for reply in (paired.result(), added.result()):
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "state.db" in added.result().json["message"]
        assert "state.db" not in paired.result().text, "a stranger learns no path"
        other.execute("ROLLBACK")
    assert workspace.policy.read_bytes() == before
    assert control.post("/pair", {"code": code}).status == 200, "the code was not used up"


def test_a_test_of_the_file_forbids_an_edit_and_can_be_changed_with_it(browser: Control, workspace: Workspace) -> None:
    tests = "tests: [{allow: ['https://kept.example/'], deny: ['https://x.example/']}]\n"
    tested = policy_text(allow=["kept.example"]) + tests
    workspace.write_policy(tested)
    refused = browser.post("/rules", {"host": "x.example"})
    line = tested.count("\n")
    assert (refused.status, refused.json["error"]) == (422, "forbidden_by_test")
    assert refused.json["fields"] == [
        {
            "path": "tests[0].deny[0]",
            "message": "a test of the file forbids this: 'https://x.example/' should be denied",
            "line": line,
        }
    ]
    assert "x.example" not in refused.json["message"], "the whole error is told once"
    added = browser.post("/rules", {"host": "x.example", "update_tests": True})
    assert (added.status, added.json["tests"]) == (200, ["tests[0].deny[0] 'https://x.example/'"])
    rules = {rule["host"]: rule["id"] for rule in browser.api("/rules")["items"]}
    assert browser.delete(f"/rules/{rules['kept.example']}").json["error"] == "forbidden_by_test"
    assert browser.delete(f"/rules/{rules['kept.example']}?update_tests=true").status == 200
    assert "tests: []" in workspace.policy.read_text()
