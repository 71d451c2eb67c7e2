"""From a new tool in report mode to its narrow rules: recorded, suggested, applied, enforced."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.net import zone
from tests.net.clients import proxy_environment
from tests.net.proxy_process import ProxyProcess
from tests.net.world import World

pytestmark = [pytest.mark.net, pytest.mark.timeout(120)]

_POLICY = """\
version: 1
anonymous: deny
tools:
  new@v1:
    # learning since today
    mode: report
    allow:
      - {host: inspected.example.com, ports: [443], methods: [HEAD]}
  other@v1:
    allow: []
"""


@pytest.fixture
def proxy(fresh_world: World) -> Iterator[ProxyProcess]:
    running = fresh_world.serve(_POLICY)
    yield running
    running.stop()


def _curl(proxy: ProxyProcess, url: str, tool: str = "new@v1", *options: str) -> bool:
    """Whether the call arrived and was answered well."""
    command = ["curl", "--silent", "--fail", "--max-time", "10", *options, url]
    return proxy.world.run(command, env=proxy_environment(proxy.tool_url(tool))).returncode == 0


def test_a_tool_learns_in_report_mode_and_keeps_what_it_needs(proxy: ProxyProcess, fresh_world: World) -> None:
    trusting = ("--cacert", proxy.command("ca", "path").stdout.strip())
    assert _curl(proxy, "https://api.example.com/")
    for number in range(4):
        assert _curl(proxy, f"http://files.example.com/repos/{number}/issues")
    assert _curl(proxy, "https://inspected.example.com/v1/list", "new@v1", *trusting)
    for name in ("one", "two"):
        assert _curl(proxy, f"https://mfrggzdfmztwq2lk{name}.elsewhere.example/")
    # What the policy never opens, report or not.
    for url in ("http://private.example.com/", "http://mixed.example.com/", "http://10.0.0.5/", "http://0x0a.5/"):
        _curl(proxy, url)
    assert not fresh_world.touched(zone.INTERNAL)
    assert not _curl(proxy, "https://api.example.com/", "other@v1"), "only the one tool is in report mode"
    assert not fresh_world.touched(zone.METADATA[0])

    told = json.loads(proxy.command("policy", "suggest", "--json", "--tool", "new@v1").stdout)
    entries = {json.dumps(each["entry"]): each["passed"] for each in told["suggested"]}
    assert entries == {
        '{"host": "api.example.com", "ports": [443]}': 1,
        '{"host": "files.example.com", "ports": [80], "methods": ["GET"], "paths": ["/repos/*/issues"]}': 4,
        '{"host": "inspected.example.com", "ports": [443], "methods": ["GET"], "paths": ["/v1/list"]}': 1,
    }
    refused = {each["what"]: each["why"] for each in told["refused"]}
    assert {"private.example.com:80", "mixed.example.com:80", "10.0.0.5:80"} <= refused.keys()
    assert [each["what"] for each in told["suspicious"]] == ["below elsewhere.example"]

    diff = proxy.command("policy", "suggest").stdout
    done = proxy.world.run(["sh", "-c", f"patch --silent {proxy.policy} <<'END'\n{diff}\nEND"])
    assert done.returncode == 0, done.stdout + done.stderr
    text = proxy.policy.read_text()
    assert "# learning since today" in text
    proxy.edit_policy(text.replace("mode: report", "mode: enforce"))
    assert _curl(proxy, "https://api.example.com/")
    assert _curl(proxy, "http://files.example.com/repos/77/issues")
    assert _curl(proxy, "https://inspected.example.com/v1/list", "new@v1", *trusting)
    marker = fresh_world.marker()
    assert not _curl(proxy, f"http://files.example.com/{marker}")
    assert not _curl(proxy, f"http://api.example.com/{marker}")
    assert not _curl(proxy, f"https://mfrggzdfmztwq2lkone.elsewhere.example/{marker}")
    assert fresh_world.saw(marker) == []
