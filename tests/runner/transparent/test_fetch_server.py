"""A real MCP server that looks names up itself and refuses what does not look public: the default addresses suit it."""

from __future__ import annotations

import json
import os
from typing import Any, Final

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.spec import Mount
from tests.net.world import World
from tests.runner.jobs import run
from tests.runner.mcp.real_servers import RealServers, fetch
from tests.runner.transparent.conftest import start

pytestmark = [pytest.mark.docker, pytest.mark.net]

CLIENT: Final = """
import json, os, subprocess, sys
proxied, messages = json.load(sys.stdin)
env = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONPATH": "/mnt/site", "SSL_CERT_FILE": "/mnt/ca.pem"}
if proxied: env |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
words = ["python3", "-m", "mcp_server_fetch", "--ignore-robots-txt"]
with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as server:
    for message in messages: print(json.dumps(message), file=server.stdin, flush=True)
    print(next(line for line in server.stdout if json.loads(line).get("id") == 2))
    server.kill()
"""


def message(method: str, number: int | None = None, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})


MESSAGES: Final = [
    message("initialize", 1, protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "1"}),
    message("notifications/initialized"),
    message("tools/call", 2, name="fetch", arguments={"url": "https://other.example.com/x", "raw": True}),
]


@pytest.fixture(scope="module")
def servers() -> RealServers:
    try:
        return fetch()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has no MCP servers: {error}")
        pytest.skip(f"no MCP servers: {error}")


@pytest.mark.parametrize(("way", "proxied"), [("steered", False), ("steered", True), ("handed", True)])
def test_it_fetches_with_and_without_the_variables(
    world: World, images: Engine, servers: RealServers, way: str, proxied: bool
) -> None:
    """With 127.128.0.0/9 it does not, which is why that network is off until somebody asks for it."""
    fetches = way == "steered"
    with start(way, world) as slots:
        mounts = (Mount(str(servers.place / "site"), "/mnt/site"), Mount(str(world.certificate), "/mnt/ca.pem"))
        stdin = json.dumps([proxied, MESSAGES]).encode()
        seen = run(slots.runner, "python3", "-c", CLIENT, stdin=stdin, mounts=mounts, timeout=110)
        assert seen.code == 0, seen
        result = json.loads(seen.out)["result"]
        said = result["content"][0]["text"]
        assert ("GET /x" in said, result["isError"]) == (fetches, not fetches), said
        assert fetches or "not a public address" in said
