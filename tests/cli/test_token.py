"""A minted credential names its tool on the wire, and only that one, and only for a while."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.cli.program import TOOL, Origin, Workspace, literal, policy_text


def test_curl_uses_the_printed_credential(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(anonymous="deny", tool_allow=[literal(origin)]))
    serving = workspace.serve()
    assert serving.get(origin.url()).status == 407

    done = workspace.run("token", TOOL, env={"CLONED_EGRESS_PROXY": f"http://127.0.0.1:{serving.port}"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP_PROXY=http://demo.tool%40v1:")
    proxy = done.stdout.splitlines()[0].partition("=")[2]
    curl = ["curl", "--silent", "--output", os.devnull, "--write-out", "%{http_code}", "--proxy", proxy, origin.url()]
    assert subprocess.run(curl, capture_output=True, text=True, timeout=20, check=True).stdout == "200"


@pytest.mark.parametrize("header", ["Proxy-Authorization: Bearer {token}", "X-Cloned-Tool-Token: {token}"])
def test_the_other_ways_to_show_a_token(workspace: Workspace, origin: Origin, header: str) -> None:
    workspace.write_policy(policy_text(anonymous="deny", tool_allow=[literal(origin)]))
    serving = workspace.serve()
    token = workspace.json("token", TOOL)["token"]
    name, _, value = header.format(token=token).partition(": ")
    assert serving.get(origin.url(), headers={name: value}).status == 200
    assert not any(key.startswith(("proxy-", "x-cloned")) for key in origin.seen[0][2])
    assert token not in str(origin.seen)


def test_a_token_of_one_tool_opens_nothing_for_another(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(tool_allow=[literal(origin)]))
    serving = workspace.serve()
    other = workspace.json("token", "other.tool@v1")["token"]
    assert serving.get(origin.url(), headers={"Proxy-Authorization": f"Bearer {other}"}).status == 403
    assert origin.seen == []


def test_a_token_ends(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(tool_allow=[literal(origin)]))
    serving = workspace.serve()
    told = workspace.json("token", TOOL, "--ttl", "1s")
    time.sleep(1.2)
    answer = serving.get(origin.url(), headers={"Proxy-Authorization": f"Bearer {told['token']}"})
    assert (answer.status, answer.reason) == (407, "identity_expired")


def test_a_tool_name_alone_grants_nothing(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(tool_allow=[literal(origin)]))
    serving = workspace.serve()
    assert serving.get(origin.url(), headers={"X-Cloned-Tool": TOOL}).status == 403
    assert origin.seen == []
