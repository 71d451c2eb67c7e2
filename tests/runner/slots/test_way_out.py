"""The one way out: what the policy allows, under the right name, through the slot's listener; nothing else."""

from __future__ import annotations

import concurrent.futures
import time
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token, proxy_url
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import ProxyLinkError
from cloned_proxy.store.workspaces.keys import load_key
from tests.runner.conftest import Serving, leftovers, start_serving, write_policy
from tests.runner.jobs import TOOL, run, sh

pytestmark = pytest.mark.docker

PYTHON_CLIENT = """
import os, http.client, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
link = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=5)
link.set_tunnel("127.0.0.1", {port})
link.request("GET", "/python")
print(link.getresponse().read().decode(), end="")
"""
NODE_CLIENT = """
const http = require('http'), proxy = new URL(process.env.HTTP_PROXY);
const ask = http.request({{host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: '127.0.0.1:{port}',
  headers: {{Host: '127.0.0.1:{port}'}}}});
ask.on('connect', (answer, socket) => {{
  http.get({{path: '/node', host: '127.0.0.1', createConnection: () => socket}}, r => r.pipe(process.stdout));
}});
ask.end();
"""


def test_curl_reaches_what_the_policy_allows(runner: DockerContainerRunner, origin: int) -> None:
    assert sh(runner, f"curl -sS --proxytunnel http://127.0.0.1:{origin}/curl").out == "origin /curl\n"


def test_python_reaches_it(runner: DockerContainerRunner, origin: int) -> None:
    assert run(runner, "python3", "-c", PYTHON_CLIENT.format(port=origin)).out == "origin /python\n"


def test_node_reaches_it(runner: DockerContainerRunner, origin: int) -> None:
    assert run(runner, "node", "-e", NODE_CLIENT.format(port=origin)).out == "origin /node\n"


@pytest.mark.parametrize(
    "command",
    [
        "curl -sS https://denied.example/",
        "git ls-remote https://denied.example/x.git",
        "pip -vvv download --no-cache-dir -d /sandbox --index-url https://denied.example/simple nothing --retries 0",
    ],
)
def test_clients_are_refused_by_the_proxy_and_not_by_a_missing_name(
    runner: DockerContainerRunner, command: str
) -> None:
    seen = sh(runner, command)
    assert seen.code != 0
    assert "403" in seen.out + seen.err, seen


def test_without_the_proxy_there_is_no_way(runner: DockerContainerRunner, origin: int) -> None:
    seen = sh(
        runner, f"curl -sS --noproxy '*' http://127.0.0.1:{origin}/; curl -sS --noproxy '*' https://denied.example/"
    )
    assert seen.code != 0
    assert seen.out == ""


def test_a_tool_without_rules_is_refused(runner: DockerContainerRunner, origin: int) -> None:
    seen = sh(runner, f"curl -sS --proxytunnel http://127.0.0.1:{origin}/", tool="other.tool@v1")
    assert seen.code == 56
    assert "403" in seen.err


def test_the_credential_of_another_tool_is_refused_on_a_slots_listener(
    runner: DockerContainerRunner, module_serving: Serving, origin: int
) -> None:
    key = load_key(module_serving.workspace / "identity.key")
    token = mint_token(key, Claims(TOOL, "cafe", time.time() + 600))
    forged = proxy_url(TOOL, token, "127.0.0.1:8081")
    script = f"curl -sv --proxy {forged} --proxytunnel http://127.0.0.1:{origin}/ 2>&1"
    assert "origin /" in sh(runner, script).out  # A's own credential does no harm in A's slot
    assert "identity_mismatch" in sh(runner, script, tool="other.tool@v1").out


@pytest.mark.parametrize(
    "header",
    [
        f"X-Cloned-Tool: {TOOL}",
        f"Proxy-Authorization: Basic {TOOL}",
        "Proxy-Authorization: Bearer forged",
        "X-Cloned-Tool-Token: forged",
    ],
)
def test_no_header_makes_another_tool(runner: DockerContainerRunner, origin: int, header: str) -> None:
    script = f"curl -s -o /dev/null -w '%{{http_connect}}' --proxy-header '{header}' -p http://127.0.0.1:{origin}/"
    assert sh(runner, script, tool="other.tool@v1").out in ("403", "407")


def test_two_tools_at_once_cannot_see_each_other(runner: DockerContainerRunner) -> None:
    program = (
        "import http.server, threading, time, urllib.request, pathlib\n"
        "mine = http.server.HTTPServer(('0.0.0.0', {mine}), http.server.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=mine.serve_forever, daemon=True).start()\n"
        "time.sleep(0.7)\n"
        "opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))\n"
        "opener.open('http://127.0.0.1:{mine}/', timeout=2)\n"
        "try: opener.open('http://127.0.0.1:{other}/', timeout=2); print('SEEN')\n"
        "except OSError as error: print('alone')\n"
        "processes = [p for p in pathlib.Path('/proc').iterdir() if p.name.isdigit()]\n"
        "print(len(processes) < 6, list(pathlib.Path('/sandbox').iterdir()))\n"
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
        a = pool.submit(run, runner, "python3", "-c", program.format(mine=9001, other=9002))
        b = pool.submit(run, runner, "python3", "-c", program.format(mine=9002, other=9001), tool="other.tool@v1")
    assert [a.result().out, b.result().out] == ["alone\nTrue []\n"] * 2


def test_a_slot_is_used_again_and_carries_nothing_over(runner: DockerContainerRunner, origin: int) -> None:
    background = "(sleep 60; curl -s --proxytunnel http://127.0.0.1/) >/dev/null 2>&1 & touch /tmp/mark; exit 0"
    assert sh(runner, background).code == 0
    seen = sh(runner, "ls /tmp; ls /proc | grep -c '^[0-9]'", tool="other.tool@v1")
    assert int(seen.out) < 6


def test_the_proxy_goes_away_and_comes_back_while_a_tool_runs(images: Engine, tmp_path: Path, origin: int) -> None:
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    write_policy(workspace, origin)
    first = start_serving(workspace)
    ask = f"curl -s -o /dev/null --max-time 3 -p http://127.0.0.1:{origin}/; echo $? >> /sandbox/seen"
    script = f"while [ ! -e /sandbox/stop ]; do {ask}; sleep 0.1; done"
    with DockerContainerRunner(workspace=workspace) as runner, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(sh, runner, script, timeout=60)
        seen = _wait_for(workspace, "0")
        first.kill()
        _wait_for(workspace, "7")  # curl: connection refused; there is never a direct path
        second = start_serving(workspace)
        _wait_for(workspace, "0", after="7")
        seen.with_name("stop").touch()
        assert running.result(60).code == 0
        second.stop()
    assert leftovers(images, workspace) == []


def _wait_for(workspace: Path, code: str, *, after: str | None = None) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in workspace.glob("run/*/scratch/*/seen"):
            codes = path.read_text(encoding="ascii").split()
            if after is not None and after in codes:
                codes = codes[len(codes) - codes[::-1].index(after) :]
            if code in codes:
                return path
        time.sleep(0.05)
    raise AssertionError(f"curl never ended with {code}")


def test_no_proxy_no_run(images: Engine, tmp_path: Path) -> None:
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True)
    with (
        DockerContainerRunner(workspace=workspace) as runner,
        pytest.raises(ProxyLinkError, match="cloned-proxy serve"),
    ):
        sh(runner, "true")
    assert leftovers(images, workspace) == []


def test_the_forwarding_holder_gives_the_same_way_and_the_same_identity(
    module_serving: Serving, origin: int, engine: Engine
) -> None:
    with DockerContainerRunner(workspace=module_serving.workspace, enter_namespaces=False) as runner:
        for _ in range(2):  # the second run reuses the slot
            assert sh(runner, f"curl -sS --proxytunnel http://127.0.0.1:{origin}/fwd").out == "origin /fwd\n"
        assert "403" in sh(runner, f"curl -sS -p http://127.0.0.1:{origin}/", tool="other.tool@v1").err
        big = sh(runner, f"for i in $(seq 30); do curl -sS -p http://127.0.0.1:{origin}/$i & done; wait")
        assert len(big.out.splitlines()) == 30
    assert leftovers(engine, module_serving.workspace) == []
