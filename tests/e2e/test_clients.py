"""Clients that people have, with nothing but the proxy variables set: what is allowed works, the rest does not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import eventually
from tests.net import content
from tests.net.clients import CLIENTS, Client, needed, node, pip, proxy_environment
from tests.net.proxy_process import ProxyProcess
from tests.net.world import World

pytestmark = [pytest.mark.net, pytest.mark.timeout(180)]

_TOOL = "client@v1"
_POLICY = """
version: 1
anonymous: deny
tools:
  client@v1:
    allow:
      - {host: api.example.com$INSIDE}
      - {host: files.example.com$INSIDE}
      - {host: shell.example.com, ports: [80], protocols: [tcp]}
"""
_PATHS = {"gate": "", "inspected": ", methods: [GET, PUT]"}
"""What the rules add on each path of the proxy: the first leaves TLS closed, the second opens it."""
_WAYS = pytest.mark.parametrize(("path", "scheme"), [("gate", "http"), ("gate", "https"), ("inspected", "https")])
_BOTH = pytest.mark.parametrize("path", _PATHS)

_MANY = {"gate": 2 * 1024**3, "inspected": 256 * 1024**2}
_FLAT = 48 * 1024**2
"""Bytes by which the proxy may grow while gigabytes pass."""


@dataclass(frozen=True, slots=True)
class Side:
    """One path of the proxy, and what a client needs to take it."""

    proxy: ProxyProcess
    authorities: Path
    """CA certificates: the world's, and the workspace's where TLS is opened."""
    environment: Mapping[str, str]
    """What `cloned-proxy token` hands to a tool, and on the inspected path what a sandbox sets so that it trusts us."""


def _side(world: World, path: str, directory: Path) -> Side:
    proxy = world.serve(_POLICY.replace("$INSIDE", _PATHS[path]))
    plain = proxy_environment(proxy.tool_url(_TOOL))
    if path == "gate":
        return Side(proxy, world.certificate, plain)
    bundle, wgetrc = directory / "both.pem", directory / "wgetrc"
    ca = Path(proxy.command("ca", "path").stdout.strip())
    bundle.write_text(world.certificate.read_text() + ca.read_text())
    wgetrc.write_text(f"ca_certificate = {bundle}\n")
    names = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
    return Side(proxy, bundle, {**plain, **dict.fromkeys(names, str(bundle)), "WGETRC": str(wgetrc)})


@pytest.fixture(scope="module")
def sides(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Side]]:
    content.add_python_package(world.content, "demo-package")
    content.add_node_package(world.content, "demo-module")
    running: dict[str, Side] = {}

    def side(path: str) -> Side:
        if path not in running:
            running[path] = _side(world, path, tmp_path_factory.mktemp("side"))
        return running[path]

    yield side
    for one in running.values():
        one.proxy.stop()


@pytest.fixture
def path() -> str:
    """The path of the proxy where a test does not say."""
    return "gate"


@pytest.fixture
def proxy(sides: Callable[[str], Side], path: str) -> ProxyProcess:
    return sides(path).proxy


@pytest.fixture
def authorities(sides: Callable[[str], Side], path: str) -> Path:
    return sides(path).authorities


@pytest.fixture
def environment(sides: Callable[[str], Side], path: str) -> dict[str, str]:
    return dict(sides(path).environment)


def call(world: World, client: Client, url: str, environment: dict[str, str]) -> tuple[int, str]:
    program = node() if client.command[0] == "{node}" else needed(client.command[0])
    command = [program, *(part.replace("{url}", url) for part in client.command[1:])]
    done = world.run(command, env={**environment, **dict(client.env)}, timeout=30)
    return done.returncode, done.stdout + done.stderr


@_WAYS
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_reaches_what_is_allowed_and_nothing_else(
    fresh_world: World, proxy: ProxyProcess, environment: dict[str, str], *, client: Client, path: str, scheme: str
) -> None:
    marker = fresh_world.marker()
    denied, _ = call(fresh_world, client, f"{scheme}://evil.example.net/{marker}", environment)
    assert denied != 0
    assert not fresh_world.saw(marker)
    assert "evil.example.net" not in fresh_world.dns_names()
    # Node opens a tunnel for plain HTTP too, and bytes that are not TLS need a rule that says so.
    host = "shell.example.com" if scheme == "http" and client.name.startswith("node") else "api.example.com"
    allowed, said = call(fresh_world, client, f"{scheme}://{host}/{marker}", environment)
    assert allowed == 0, said + proxy.said()[-2000:]
    assert {port for _, port in fresh_world.saw(marker)} == {443 if scheme == "https" else 80}
    assert marker in said
    if path == "inspected":

        def on_record() -> list[dict[str, Any]]:
            return [entry for entry in proxy.log() if entry.get("path") == f"/{marker}"]

        eventually(on_record, what="the request on record")
        request = on_record()[0]
        assert (request["verdict"], request["kind"], request["method"]) == ("allow", "inspected_request", "GET")


@_BOTH
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_without_a_credential_reaches_nothing(fresh_world: World, proxy: ProxyProcess, client: Client) -> None:
    marker = fresh_world.marker()
    status, _ = call(fresh_world, client, f"https://api.example.com/{marker}", proxy_environment(proxy.url))
    assert status != 0
    assert not fresh_world.touched("api.example.com")


@_BOTH
def test_a_redirect_to_a_denied_host_ends_there(fresh_world: World, environment: dict[str, str]) -> None:
    url = "https://api.example.com/to/https://evil.example.net/x"
    done = fresh_world.run([needed("curl"), "-sSL", "--fail", url], env=environment)
    assert done.returncode != 0
    assert fresh_world.touched("api.example.com", 443)
    assert not fresh_world.touched("evil.example.net")


@_BOTH
def test_git_clones_over_https(fresh_world: World, environment: dict[str, str], tmp_path: Path) -> None:
    git = needed("git")
    if not (fresh_world.content / "git").exists():
        content.add_repository(fresh_world.content, "demo", tmp_path / "source")
    quiet = {**environment, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null"}
    denied = fresh_world.run([git, "clone", "https://evil.example.net/git/demo.git", str(tmp_path / "no")], env=quiet)
    assert denied.returncode != 0
    assert not fresh_world.touched("evil.example.net")
    target = tmp_path / "yes"
    done = fresh_world.run([git, "clone", "-q", "https://files.example.com/git/demo.git", str(target)], env=quiet)
    assert done.returncode == 0, done.stderr
    assert (target / "README").read_text() == "through the proxy\n"
    assert fresh_world.touched("files.example.com", 443)


@_WAYS
def test_pip_installs_from_an_allowed_index(
    fresh_world: World, environment: dict[str, str], authorities: Path, tmp_path: Path, scheme: str
) -> None:
    clean = {**environment, "PIP_CONFIG_FILE": "/dev/null", "PIP_CERT": str(authorities)}
    common = [*pip(), "--isolated", "--disable-pip-version-check", "install", "--no-cache-dir", "--retries", "0"]
    common += ["--cert", str(authorities), "--trusted-host", "files.example.com"]
    common += ["--proxy", environment["HTTP_PROXY"], "demo-package"]
    denied = fresh_world.run(
        [*common, "--target", str(tmp_path / "no"), "--index-url", f"{scheme}://evil.example.net/simple/"], env=clean
    )
    assert denied.returncode != 0
    assert not fresh_world.touched("evil.example.net")
    done = fresh_world.run(
        [*common, "--target", str(tmp_path / "yes"), "--index-url", f"{scheme}://files.example.com/simple/"], env=clean
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "yes" / "demo_package.py").exists()


@_BOTH
def test_npm_installs_from_an_allowed_registry(
    fresh_world: World, environment: dict[str, str], authorities: Path, tmp_path: Path
) -> None:
    clean = {key: value for key, value in os.environ.items() if key.lower().startswith("npm_")}
    env = {
        **dict.fromkeys(clean, ""),
        **environment,
        "HOME": str(tmp_path),
        "npm_config_cache": str(tmp_path / "cache"),
    }
    for name in ("user", "global"):
        (tmp_path / name).write_text("")
    common = [needed("npm"), "install", "demo-module", "--no-audit", "--no-fund", "--fetch-retries=0"]
    common += ["--userconfig", str(tmp_path / "user"), "--globalconfig", str(tmp_path / "global")]
    common += ["--cafile", str(authorities), "--prefix", str(tmp_path)]
    denied = fresh_world.run([*common, "--registry", "https://evil.example.net/npm/"], env=env)
    assert denied.returncode != 0
    assert not fresh_world.touched("evil.example.net")
    done = fresh_world.run([*common, "--registry", "https://files.example.com/npm/"], env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "node_modules" / "demo-module" / "index.js").exists()


_READ_EVENTS = """
import json, sys, time, urllib.request
came = []
for line in urllib.request.urlopen(sys.argv[1], timeout=10):
    if line.startswith(b"data:"):
        came.append((line.decode().strip(), time.monotonic()))
print(json.dumps([[text for text, _ in came], came[-1][1] - came[0][1]]))
"""


@_WAYS
def test_server_sent_events_come_one_by_one(fresh_world: World, environment: dict[str, str], scheme: str) -> None:
    url = f"{scheme}://api.example.com/sse"
    done = fresh_world.run([sys.executable, "-c", _READ_EVENTS, url], env=environment)
    assert done.returncode == 0, done.stderr
    events, seconds = json.loads(done.stdout)
    assert events == ["data: event 0", "data: event 1", "data: event 2"]
    # The server sends them over 200 ms; a proxy that collects a body first would hand them over at once.
    assert seconds > 0.1


_WEBSOCKETS = """
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1]) as socket:
        for text in ("one", "two" * 50_000):
            await socket.send(text)
            assert await socket.recv() == text
        print("echoed")
asyncio.run(main())
"""

_AIOHTTP = """
import aiohttp, asyncio, os, sys
async def main():
    # This library looks for WS_PROXY, which nobody sets, and would go round the proxy.
    proxy = os.environ["HTTP_PROXY"]
    async with aiohttp.ClientSession() as session, session.ws_connect(sys.argv[1], proxy=proxy) as socket:
        for text in ("one", "two" * 50_000):
            await socket.send_str(text)
            assert (await socket.receive()).data == text
        print("echoed")
asyncio.run(main())
"""


_SECURE = ("wss://api.example.com", "wss://evil.example.net")


@pytest.mark.parametrize(
    ("path", "code", "allowed", "denied"),
    [
        pytest.param("gate", _WEBSOCKETS, *_SECURE, id="websockets, tunnel"),
        pytest.param("gate", _AIOHTTP, *_SECURE, id="aiohttp, tunnel"),
        pytest.param("inspected", _WEBSOCKETS, *_SECURE, id="websockets, opened"),
        pytest.param("inspected", _AIOHTTP, *_SECURE, id="aiohttp, opened"),
        pytest.param("gate", _AIOHTTP, "http://api.example.com", "http://evil.example.net", id="aiohttp, plain"),
        # This client tunnels ws:// too; bytes that are not TLS need a rule that says so.
        pytest.param("gate", _WEBSOCKETS, "ws://shell.example.com", "ws://api.example.com", id="websockets, raw"),
    ],
)  # fmt: skip
def test_websockets_pass_where_allowed(
    fresh_world: World, environment: dict[str, str], code: str, allowed: str, denied: str
) -> None:
    refused = fresh_world.run([sys.executable, "-W", "ignore", "-c", code, f"{denied}/ws"], env=environment)
    assert refused.returncode != 0
    assert fresh_world.bytes_at(denied.split("/")[2], 443 if denied.startswith("wss") else 80) == 0
    done = fresh_world.run([sys.executable, "-W", "ignore", "-c", code, f"{allowed}/ws"], env=environment)
    assert done.stdout.strip() == "echoed", done.stderr


@pytest.mark.slow
@_WAYS
@pytest.mark.parametrize("direction", ["download", "upload"])
def test_gigabytes_pass_in_flat_memory(
    fresh_world: World, proxy: ProxyProcess, environment: dict[str, str], *, path: str, scheme: str, direction: str
) -> None:
    curl, size = needed("curl"), _MANY[path]
    if direction == "download":
        command = f"{curl} -sS --fail {scheme}://files.example.com/bytes/{size} | wc -c"
    else:
        command = f"head -c {size} /dev/zero | {curl} -sS --fail -T - {scheme}://files.example.com/upload"
    before = proxy.resident()
    with (fresh_world.directory / "bulk.out").open("wb") as out:
        process = fresh_world.spawn(["sh", "-c", command], env=environment, stdout=out, stderr=out)
    highest = before
    while process.poll() is None:
        highest = max(highest, proxy.resident())
        fresh_world.settle()
    said = (fresh_world.directory / "bulk.out").read_text()
    assert str(size) in said, said
    assert highest - before < _FLAT, f"grew by {(highest - before) >> 20} MiB"
