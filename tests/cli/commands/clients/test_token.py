"""A minted credential names its tool on the wire, and only that one, and only for a while."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

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
    assert subprocess.run(curl, capture_output=True, text=True, timeout=90, check=True).stdout == "200"


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


def exported(workspace: Workspace) -> dict[str, str]:
    """What `export $(cloned-proxy token TOOL)` sets."""
    return dict(line.split("=", 1) for line in workspace.run("token", TOOL).stdout.splitlines())


def test_the_credential_is_for_the_proxy_that_serves_this_workspace(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    refused = workspace.run("token", TOOL)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no proxy serves" in refused.stderr
    assert not (workspace.path / "identity.key").exists()
    serving = workspace.serve()
    assert exported(workspace)["HTTP_PROXY"].endswith(f"@127.0.0.1:{serving.port}")
    behind = workspace.run("token", TOOL, env={"CLONED_EGRESS_PROXY": "http://gateway.example:9"})
    assert behind.stdout.splitlines()[0].endswith("@gateway.example:9")
    assert f"http://127.0.0.1:{serving.port} serves this workspace" in behind.stderr


def test_no_credential_is_given_for_what_certainly_is_another_proxy(workspace: Workspace, tmp_path: Path) -> None:
    """Of this machine's ports one serves the workspace; another workspace's proxy would see the credential."""
    place = tmp_path / "other"
    other = Workspace(place, workspace.environment | {"CLONED_WORKSPACE": str(place)})
    other.write_policy(policy_text())
    theirs = f"http://127.0.0.1:{other.serve().port}"
    workspace.write_policy(policy_text())
    variable = {"CLONED_EGRESS_PROXY": theirs}
    unserved = workspace.run("token", TOOL, env=variable)
    assert (unserved.returncode, unserved.stdout) == (2, "")
    assert f"{theirs} serves {place}" in unserved.stderr
    ours = f"http://127.0.0.1:{workspace.serve().port}"
    for command in ("token", TOOL), ("doctor",), ("proxy",):
        done = workspace.run(*command, env=variable)
        said = f"{ours} serves this workspace, and {theirs} is named by CLONED_EGRESS_PROXY"
        assert said in done.stdout + done.stderr
    assert workspace.run("proxy", "--set", theirs).returncode == 0
    refused = workspace.run("token", TOOL)
    other.close()
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "proxy --clear" in refused.stderr


PYTHON_CLIENTS = """
import asyncio, sys, urllib.request, aiohttp, httpx, requests

async def by_aiohttp(url):
    async with aiohttp.ClientSession(trust_env=True) as session:
        await session.get(url)

for name, get in {"requests": requests.get, "httpx": httpx.get, "urllib": urllib.request.urlopen,
                  "aiohttp": lambda url: asyncio.run(by_aiohttp(url))}.items():
    for url in sys.argv[1:]:
        try:
            get(f"{url}by-{name}")
        except Exception as error:
            print(name, url, error)
"""
OTHERS = (["curl", "-sS"], ["wget", "-q", "-t1", "-O-"], ["git", "ls-remote"])


def test_what_is_exported_exempts_the_loopback_and_nothing_else(workspace: Workspace, origin: Origin) -> None:
    """Judged by what reaches a service on loopback, and by what the proxy has on record."""
    workspace.write_policy(policy_text())
    workspace.serve()
    environment = {"PATH": os.environ["PATH"], "HOME": str(workspace.path), **exported(workspace)}
    port = origin.port
    near = [f"http://127.0.0.1:{port}/", f"http://localhost:{port}/"]
    far = [f"http://{host}:{port}/" for host in ("127.0.0.10", "localhost.example", "127.0.0.1.example")]
    calls = [[sys.executable, "-c", PYTHON_CLIENTS, *near, *far]]
    calls += [[*words, f"{url}by-{words[0]}"] for words in OTHERS if shutil.which(words[0]) for url in near + far]
    for call in calls:
        subprocess.run(call, env=environment, capture_output=True, timeout=60, check=False)
    clients = {"requests", "httpx", "urllib", "aiohttp", *(words[0] for words in OTHERS if shutil.which(words[0]))}
    reached = {(headers["host"], path.split("/")[1]) for _, path, headers in origin.seen}
    assert reached == {(url.split("/")[2], f"by-{name}") for url in near for name in clients}
    denied = {
        (record["host"], record["path"].split("/")[1])
        for record in map(json.loads, workspace.run("log", "--denied", "--json").stdout.splitlines())
    }
    assert denied == {(url.split("/")[2].split(":")[0], f"by-{name}") for url in far for name in clients}
