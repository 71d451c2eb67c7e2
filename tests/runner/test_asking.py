"""The update tool, in a sealed container and in a process: the listener, or the token, is who asks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token, proxy_url
from cloned_proxy.runner.runs.process import ProcessRunner
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.link import proxy_status
from cloned_proxy.runner.values.errors import ToolFailedError
from cloned_proxy.share import share_path
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.workspaces.keys import load_key
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.runner.conftest import Serving, start_serving

TOOL = "cloned.internal.security.egress.update@v1"
DEMO = "demo.tool@v1"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    (workspace / "policy.yaml").write_text(f"version: 1\ntools:\n  {TOOL}: {{may_request: [{DEMO}]}}\n")
    started = start_serving(workspace)
    yield started
    started.stop()


def ask_for_the_demo_tool(runner: DockerContainerRunner | ProcessRunner, workspace: Path) -> None:
    before = (workspace / "policy.yaml").read_bytes()
    wish = {"tool_id": DEMO, "domains": ["api.example.com"], "for": "30m", "reason": "to look things up"}
    answer = runner.run_tool(TOOL, wish).output
    approvals = ApprovalService(Workspace(workspace))
    (approval,) = approvals.list("pending")
    assert (answer["id"], answer["state"]) == (approval.id, "pending")
    assert (approval.asker, approval.tool, approval.for_seconds) == (TOOL, DEMO, 1800.0)
    with pytest.raises(ToolFailedError, match="may_request"):
        runner.run_tool(TOOL, {"domains": ["api.example.com"], "scope": "global"})
    with pytest.raises(ToolFailedError, match="would allow every host"):
        runner.run_tool(TOOL, {"tool_id": DEMO, "domains": ["*"]})
    assert (workspace / "policy.yaml").read_bytes() == before
    approvals.approve(approval.id, actor="cli:tester")
    assert "api.example.com" in (workspace / "policy.yaml").read_text()


def test_a_process_asks_with_its_token(serving: Serving) -> None:
    ask_for_the_demo_tool(ProcessRunner(workspace=serving.workspace), serving.workspace)


ASK = share_path("sandbox", "worker", "ask.py")


def cloned_ask(workspace: Path, *words: str) -> subprocess.Popen[str]:
    """The program of the image as a process of this host, under a token of the demo tool."""
    claims = Claims(DEMO, "r", time.time() + 600)
    token = mint_token(load_key(Workspace(workspace).identity_key), claims)
    environment = {"http_proxy": proxy_url(DEMO, token, proxy_status(workspace).address)}
    return subprocess.Popen(
        [sys.executable, ASK, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def asked_for(workspace: Path, host: str) -> str:
    """The id of the request, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for approval in ApprovalService(Workspace(workspace)).list("pending"):
            if any(entry.host == host for entry in approval.proposal.entries):
                return approval.id
        time.sleep(0.05)
    raise AssertionError(f"nobody asked for {host}")


def ended(asking: subprocess.Popen[str]) -> tuple[int, str, str]:
    told, said = asking.communicate(timeout=60)
    return asking.returncode, told, said


def test_cloned_ask_waits_for_a_person(serving: Serving) -> None:
    place = serving.workspace
    service = ApprovalService(Workspace(place))
    granted = cloned_ask(place, "https://yes.example.com/v1/x?y", "for", "the", "docs")
    refused = cloned_ask(place, "--for", "30m", "--uses", "3", "no.example.com:8443")
    by_hand = cloned_ask(place, "hand.example.com")
    approval = asked_for(place, "yes.example.com")
    assert service.get(approval).proposal.reason == "for the docs"
    service.approve(approval, actor="cli:tester")
    assert ended(granted)[:2] == (0, f"granted: allow yes.example.com for {DEMO}\n")
    lease = service.get(asked_for(place, "no.example.com")).proposal
    assert (lease.for_seconds, lease.uses, lease.entries[0].ports) == (1800.0, 3, (8443,))
    service.reject(asked_for(place, "no.example.com"), actor="cli:tester", reason="not today")
    code, told, said = ended(refused)
    assert (code, told) == (1, "")
    assert "rejected: allow no.example.com:8443" in said
    assert "not today" in said
    asked_for(place, "hand.example.com")
    subprocess.run(
        [sys.executable, "-m", "cloned_proxy", "allow", "hand.example.com", "--tool", DEMO, "--workspace", place],
        check=True,
    )
    assert ended(by_hand)[:2] == (0, f"granted: allow hand.example.com for {DEMO}\n")
    assert ended(cloned_ask(place, "hand.example.com"))[:2] == (
        0, "granted: hand.example.com: the policy says so already, without an end; nothing has to be asked\n"
    )  # fmt: skip


def test_cloned_ask_says_what_cannot_be(serving: Serving) -> None:
    place = serving.workspace
    code, told, said = ended(cloned_ask(place, "--wait", "0", "late.example.com"))
    approval = asked_for(place, "late.example.com")
    assert (code, told) == (1, "")
    assert f"nobody has decided yet; `cloned-ask {approval}` waits on" in said
    waits_on = cloned_ask(place, approval)
    ApprovalService(Workspace(place)).approve(approval, actor="cli:tester")
    assert ended(waits_on)[0] == 0
    for words, code, message in (
        (("169.254.169.254",), 1, "nobody can ask for those"),
        (("*",), 1, "would allow every host"),
        (("a-0000000000",), 1, "there is no request 'a-0000000000' of yours"),
        (("https://",), 2, "is not a host"),
        (("--wait", "inf", "x.example.com"), 2, "number of seconds"),
        ((), 2, "usage: cloned-ask"),
    ):
        found = ended(cloned_ask(place, *words))
        assert found[0] == code, found
        assert message in found[2]
    serving.stop()
    code, _, said = ended(subprocess.Popen(
        [sys.executable, ASK, "x.example.com"], env={"http_proxy": "http://127.0.0.1:9"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ))  # fmt: skip
    assert (code, "is this a sandbox of cloned-proxy?" in said) == (1, True)


@pytest.mark.docker
def test_the_words_of_a_refusal_lead_a_tool_inside_to_the_host(images: object, serving: Serving) -> None:
    script = (
        r"curl -s http://new.example.com/ | sed -n 's/.*\(cloned-ask [a-z.]*\).*/\1/p' >/sandbox/ask;"
        "curl -s http://cloned.internal/ >&2; sh /sandbox/ask"
    )
    place = str(serving.workspace)
    words = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", place, DEMO, "--", "sh", "-c", script]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        asked = asked_for(serving.workspace, "new.example.com")
        ApprovalService(Workspace(serving.workspace)).approve(asked, actor="cli:tester")
        code, told, said = ended(running)
    assert (code, told) == (0, f"granted: allow new.example.com for {DEMO}\n"), said
    assert f"This is cloned-proxy, which decides what leaves this sandbox. You are {DEMO}." in said


@pytest.mark.docker
def test_a_sealed_container_asks_through_its_listener(images: object, serving: Serving) -> None:
    with DockerContainerRunner(workspace=serving.workspace) as runner:
        ask_for_the_demo_tool(runner, serving.workspace)
