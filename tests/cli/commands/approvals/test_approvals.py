"""`cloned-proxy approvals`: what a person sees and says, and what comes of it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest

from cloned_proxy import request_egress
from cloned_proxy.cli.commands.approvals import approval_text
from cloned_proxy.store.approvals import egress_request
from cloned_proxy.store.approvals.approval_errors import NeverAllowedError
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.workspaces.workspace import Workspace as Files
from tests.cli.program import PROGRAM, TOOL, Workspace


@pytest.fixture
def asked(workspace: Workspace) -> str:
    workspace.write_policy("version: 1\n")
    made = request_egress(
        ["api.example.com", "*.example.org:8443"], tool_id=TOOL, lasting="30m", reason="docs", workspace=workspace.path
    )
    return made.id


def test_a_request_is_listed_shown_and_approved(workspace: Workspace, asked: str) -> None:
    (listed,) = workspace.json("approvals", "list")
    assert (listed["id"], listed["for_seconds"], listed["origin"]) == (asked, 1800.0, "host")
    shown = workspace.run("approvals", "show", asked).stdout
    for words in (f"allow api.example.com, *.example.org:8443 for {TOOL}", "30m", "'docs'", "one more label"):
        assert words in shown
    approved = workspace.run("approvals", "approve", asked, "--for", "1m", "--uses", "3", "--reason", "for the report")
    assert approved.returncode == 0
    assert approved.stdout.startswith("allow api.example.com uses 3 until 2")
    rules = workspace.json("list")["rules"]
    assert {(rule["host"], rule["max_uses"]) for rule in rules} == {("api.example.com", 3), ("*.example.org", 3)}
    assert {rule["reason"] for rule in rules} == {f"request {asked}: for the report"}
    assert workspace.json("approvals", "list") == []
    (decided,) = workspace.json("approvals", "list", "--all")
    assert decided["state"] == "approved"
    assert "approved" in workspace.run("log").stdout


@pytest.mark.parametrize(("replica", "said"), [("", TOOL), ("edge-2", f"{TOOL} on edge-2")])
def test_the_replica_that_was_asked_is_named(workspace: Workspace, asked: str, replica: str, said: str) -> None:
    service = ApprovalService(Files(workspace.path))
    approval = replace(service.get(asked), replica=replica, asker=TOOL, run=None)
    assert approval_text.row(approval)[2] == said
    assert f"asked by  {said}, " in "\n".join(approval_text.lines(approval, service.evidence(asked)))


def test_a_no_leaves_the_file_as_it_is(workspace: Workspace, asked: str) -> None:
    before = workspace.policy.read_bytes(), workspace.policy.stat().st_mtime_ns
    assert workspace.call("approvals", "reject", asked, "--reason", "no need").returncode == 0
    late = workspace.call("approvals", "approve", asked)
    assert late.returncode == 1
    assert "is rejected by cli:" in late.stderr
    assert (workspace.policy.read_bytes(), workspace.policy.stat().st_mtime_ns) == before


def test_an_edit_between_the_look_and_the_yes_is_a_conflict(workspace: Workspace, asked: str) -> None:
    seen = workspace.json("approvals", "show", asked)["evidence"]["policy_version"]
    workspace.write_policy("version: 1  # by hand\n")
    refused = workspace.call("approvals", "approve", asked, "--expected-version", seen)
    assert refused.returncode == 1
    assert "look at what changed" in refused.stderr
    assert workspace.policy.read_text() == "version: 1  # by hand\n"
    assert workspace.json("approvals", "list")[0]["state"] == "pending"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("approve", "a-0000000000"), "there is no request"),
        (("reject", "a-0000000000"), "there is no request"),
        (("show", "a-0000000000"), "there is no request"),
        (("approve", "a-0000000000", "--for", "soon"), "not a duration"),
    ],
)
def test_bad_words_are_bad_input(workspace: Workspace, asked: str, words: tuple[str, ...], said: str) -> None:
    done = workspace.call("approvals", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs mount namespaces")
def test_a_read_only_workspace_decides_nothing(workspace: Workspace, asked: str) -> None:
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$1" approvals approve "$2"'
    command = ["unshare", "--mount", "sh", "-c", script, str(workspace.path), str(PROGRAM), asked]
    done = subprocess.run(command, env=workspace.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "writable" in done.stderr
    assert workspace.json("approvals", "list")[0]["state"] == "pending"
    assert workspace.policy.read_text() == "version: 1\n"


def test_python_waits_for_the_answer(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_request, "_POLL_SECONDS", 0.01)
    workspace.write_policy("version: 1\n")
    made = request_egress(["api.example.com"], scope="global", workspace=workspace.path)
    assert made.wait(timeout=0.05).state == "pending"
    workspace.call("approvals", "reject", made.id)
    assert made.wait(timeout=90).state == "rejected"
    with pytest.raises(NeverAllowedError, match="every host"):
        request_egress(["*"], scope="global", workspace=workspace.path)
