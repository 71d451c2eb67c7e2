"""The operations of the API that change something, against a real proxy: what they change acts, and is on record."""

from __future__ import annotations

import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.workspaces.workspace import Workspace as StoreWorkspace
from tests.cli.program import TOOL, Origin, Serving, Workspace, eventually, literal, policy_text
from tests.control.support import Control, eventually_version, stream


@pytest.fixture
def open_policy(workspace: Workspace, origin: Origin, serving: Serving) -> str:
    """A policy that allows the origin, raw tunnels included; returns its version."""
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    eventually(lambda: serving.get(origin.url()).status == 200, what="the new policy")
    return str(workspace.json("list")["version"])


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


def test_every_operation_is_described_and_every_described_one_is_there(browser: Control) -> None:
    document = browser.api("/openapi.json")
    assert document["openapi"].startswith("3.1")
    operations = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert len(operations) > 20
    for method, path in operations:
        other = "DELETE" if method == "GET" and ("DELETE", path) not in operations else "PATCH"
        reply = browser.send(other, path.replace("{id}", "x").replace("{version}", "x"))
        assert reply.status in (404, 405), (other, path, reply)


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
