"""Clients that wait for a 407 are their tool under `anonymous: challenge`; who has no credential loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import eventually
from tests.e2e.late_clients import HEAVY, LIGHT, Call, LateClient
from tests.net.clients import needed, proxy_environment
from tests.net.proxy_process import ProxyProcess
from tests.net.world import World

pytestmark = [pytest.mark.net, pytest.mark.timeout(180)]

TOOL = "client@v1"
POLICY = """
version: 1
anonymous: challenge
global: {allow: [alpha.example.com]}
tools:
  client@v1:
    allow: [api.example.com, {host: inspected.example.com, methods: [GET, HEAD, OPTIONS, PROPFIND]}]
"""
CASES = [
    pytest.param(client, scheme, id=f"{client.name}, {scheme}", marks=[pytest.mark.slow] if client in HEAVY else [])
    for client in (*LIGHT, *HEAVY)
    for scheme in client.schemes
]


@pytest.fixture(scope="module")
def proxy(world: World) -> Iterator[ProxyProcess]:
    serving = world.serve(POLICY)
    yield serving
    serving.stop()


def call(world: World, proxy: ProxyProcess, client: LateClient, url: str, directory: Path) -> str:
    host = url.split("/")[2]
    command, environment = client.command(Call(url, host, TOOL, proxy.token(TOOL), proxy.port, directory))
    done = world.run(command, env=environment, timeout=90)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("client", "scheme"), CASES)
def test_it_is_its_tool_when_it_is_asked(
    fresh_world: World, proxy: ProxyProcess, tmp_path: Path, client: LateClient, scheme: str
) -> None:
    marker, port = fresh_world.marker(), 443 if scheme == "https" else 80
    said = call(fresh_world, proxy, client, f"{scheme}://api.example.com/{marker}", tmp_path)
    assert {arrived for _, arrived in fresh_world.saw(marker)} == {port}, said + proxy.said()[-2000:]
    other = fresh_world.marker()
    call(fresh_world, proxy, client, f"{scheme}://evil.example.net/{other}", tmp_path)
    assert not fresh_world.touched("evil.example.net")

    def on_record(host: str) -> set[tuple[str, str | None, str]]:
        entries = (entry for entry in proxy.log("--since", "1h") if entry.get("host") == host)
        return {(entry["verdict"], entry["tool"], entry["reason"]) for entry in entries}

    refusal = ("deny", TOOL, "host_not_allowed")
    eventually(lambda: refusal in on_record("evil.example.net"), what="the last call on record")
    calls = on_record("api.example.com")
    assert ("allow", TOOL, "allowed") in calls
    assert ("deny", None, "identity_missing") in calls, "a client that did not wait for the question"


@pytest.mark.parametrize("name", ["lftp", "PHP streams"])
def test_absolute_form_inside_opened_tls_is_read(
    fresh_world: World, proxy: ProxyProcess, tmp_path: Path, name: str
) -> None:
    marker = fresh_world.marker()
    url = f"https://inspected.example.com/{marker}"
    if name == "lftp":
        lftp = next(client for client in LIGHT if client.name == "lftp")
        said = call(fresh_world, proxy, lftp, url, tmp_path)
    else:
        code = f"""
        $context = stream_context_create([
            "http" => ["proxy" => "tcp://127.0.0.1:{proxy.port}", "request_fulluri" => true,
                       "header" => "Proxy-Authorization: Bearer {proxy.token(TOOL)}"],
            "ssl" => ["verify_peer" => false, "verify_peer_name" => false]]);
        echo file_get_contents("{url}", false, $context);
        """
        said = fresh_world.run([needed("php"), "-r", code]).stdout
    assert {port for _, port in fresh_world.saw(marker)} == {443}, said + proxy.said()[-2000:]
    # What goes upstream is origin-form.
    assert f" /{marker} HTTP/1.1\r\n" in fresh_world.text_at("inspected.example.com", 443)


def test_who_has_no_credential_gets_what_global_allows_and_reads_why_not_the_rest(
    fresh_world: World, proxy: ProxyProcess
) -> None:
    curl, environment = needed("curl"), proxy_environment(proxy.url)
    marker = fresh_world.marker()
    done = fresh_world.run([curl, "-sS", "--fail", f"https://alpha.example.com/{marker}"], env=environment)
    assert done.returncode == 0, done.stderr
    assert fresh_world.saw(marker)
    answer = fresh_world.run([curl, "-sS", "-i", f"http://api.example.com/{marker}x"], env=environment).stdout
    assert answer.startswith("HTTP/1.1 407 identity_missing: ")
    assert '"hint":"send the tool\'s credential' in answer
    assert "without one: cloned-proxy allow api.example.com" in answer
    assert not fresh_world.touched("api.example.com")


def test_without_the_question_they_are_nobody(fresh_world: World, tmp_path: Path) -> None:
    """The open control: what `anonymous: global` makes of the same client."""
    proxy = fresh_world.serve(POLICY.replace("challenge", "global"))
    marker = fresh_world.marker()
    call(fresh_world, proxy, LIGHT[0], f"https://api.example.com/{marker}", tmp_path)
    assert not fresh_world.saw(marker)

    def refused() -> set[tuple[str | None, str]]:
        return {(entry["tool"], entry["reason"]) for entry in proxy.log() if entry.get("host")}

    eventually(refused, what="the refusal on record")
    assert refused() == {(None, "host_not_allowed")}
    proxy.stop()
