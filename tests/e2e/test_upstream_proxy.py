"""Real proxies in front: what goes through them, what goes nowhere, judged by the bytes that arrive."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.net import fronts
from tests.net.attacks.attempt import gets_out
from tests.net.attacks.policies import CONFIG_OF_PLANE
from tests.net.fronts import PASSWORD, USER, Front
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import World
from tests.proxy.support import need_plane

pytestmark = [pytest.mark.net, pytest.mark.timeout(180)]

_PORT = 3128
_POLICY = """
version: 1
anonymous: global
global:
  allow:
    - api.example.com
    - private.example.com
    - rebind.example.com
    - absent.example.com
    - {host: inspected.example.com, methods: [GET]}
    - {host: front.example.org, ports: [3128], protocols: [tcp], addresses: [private]}
"""
_AUTH = "auth: '${vault:upstream.proxy}'"
_CREDENTIAL = f"{USER}:{PASSWORD}"

FRONTS: dict[str, tuple[Callable[[World], AbstractContextManager[Front]], str]] = {
    "Squid with a password": (lambda world: fronts.squid(world, _PORT, password=True), _AUTH),
    "tinyproxy with a password": (lambda world: fronts.tinyproxy(world, _PORT, password=True), _AUTH),
    "mitmproxy by TLS": (lambda world: fronts.mitmproxy(world, _PORT, secure=True), "ca_files: [front.pem]"),
}


def behind(world: World, directory: Path, front: Front, more: str = "", *, without: tuple[str, ...] = (),
           value: str = _CREDENTIAL, native: bool = False) -> ProxyProcess:  # fmt: skip
    """Ours, with `front` in front of it."""
    workspace = directory / "behind"
    workspace.mkdir(mode=0o700)
    if "auth" in more:
        Vault(Workspace(workspace)).set("upstream.proxy", value)
    if "ca_files" in more:
        (workspace / "front.pem").write_bytes((front.directory / "mitmproxy-ca-cert.pem").read_bytes())
    config = fronts.config(front, more)
    if native:
        need_plane()
        options = ProxyOptions(config=config + CONFIG_OF_PLANE, workspace=workspace, without=without, plane="require")
    else:
        options = ProxyOptions(config=config, workspace=workspace, without=without)
    return world.serve(_POLICY, options)


def get(world: World, proxy: ProxyProcess, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    return world.run(["curl", "-sSi", "--max-time", "20", "-x", proxy.url, *more, url])


def reaches(world: World, proxy: ProxyProcess, url: str) -> bool:
    """Whether anything is connected to for this call."""
    world.reset()
    get(world, proxy, url, "-k")
    world.settle()
    return world.contacts() != []


@pytest.mark.parametrize("name", FRONTS)
def test_every_road_leads_through_the_front(name: str, world: World, tmp_path: Path) -> None:
    make, more = FRONTS[name]
    with make(world) as front:
        proxy = behind(world, tmp_path, front, more)
        marker = world.marker()
        bundle = tmp_path / "both.pem"
        ca = Path(proxy.command("ca", "path").stdout.strip())
        bundle.write_text(world.certificate.read_text() + ca.read_text())
        for url in ("http://api.example.com", "https://api.example.com", "https://inspected.example.com"):
            answered = get(world, proxy, f"{url}/{marker}", "--cacert", str(bundle))
            assert f"GET /{marker} received 0" in answered.stdout, answered
            # Nothing that the front leaves in a response names it to the tool.
            for word in ("squid", "tinyproxy", "mitmproxy", "10.0.0.9", "x-cache", "cache-status"):
                assert word not in answered.stdout.lower()
        assert len(world.saw(marker)) == 3
        if "auth" in more:
            found = json.loads(proxy.command("status", "--json").stdout)["upstream"]
            assert found == {"proxy": front.url, "resolve": "here", "problem": None}
        # The front is gone: nothing arrives anywhere, by no road.
        front.stop()
        for authority in ("http://api.example.com/", "93.184.216.12:443"):
            assert authority in front.said()
        world.reset()
        for url in ("http://api.example.com", "https://api.example.com", "https://inspected.example.com"):
            answered = get(world, proxy, f"{url}/{marker}", "--cacert", str(bundle))
            assert re.search(r"HTTP/(1\.1|2) 502", answered.stdout), answered
            assert (
                '"phase":"upstream_proxy"' in answered.stdout or answered.returncode
            )  # curl shows no body of a CONNECT
        world.settle()
        assert world.contacts() == []
        assert _CREDENTIAL not in proxy.said()
        assert 'upstream_proxy_failures_total{cause="unreachable"} 3.0' in proxy.http_get("/metrics")[1]
        proxy.stop()


def test_its_407_is_on_record_and_never_gets_to_a_tool(world: World, tmp_path: Path) -> None:
    with fronts.squid(world, _PORT, password=True) as front:
        proxy = behind(world, tmp_path, front, _AUTH, value=f"{USER}:wrong")
        for url in ("http://api.example.com/", "https://api.example.com/"):
            answered = get(world, proxy, url).stdout.lower()
            assert "http/1.1 502" in answered
            for word in ("407", "proxy-authenticate", "squid", "corp", "10.0.0.9"):
                assert word not in answered
        assert "wants another credential (407)" in proxy.command("status").stdout
        proxy.stop()  # which writes what the log did not have yet
        assert proxy.command("log").stdout.count("upstream_error:upstream_proxy:407") == 2
        assert "wrong" not in proxy.said()


def test_what_the_front_refuses_is_told_without_its_page(world: World, tmp_path: Path) -> None:
    with fronts.squid(world, _PORT, extra="http_access deny all\n") as front:
        proxy = behind(world, tmp_path, front)
        world.reset()
        for url in ("http://api.example.com/", "https://api.example.com/"):
            answered = get(world, proxy, url).stdout.lower()
            assert "http/1.1 502" in answered
            assert "squid" not in answered
        proxy.stop()  # which writes what the log did not have yet
        assert proxy.command("log").stdout.count("upstream_error:upstream_proxy:403") == 2


def test_a_rebound_name_is_not_followed_by_tunnels(world: World, tmp_path: Path) -> None:
    """Public when we look it up, internal when the front would."""
    with fronts.squid(world, _PORT) as front:
        proxy = behind(world, tmp_path, front)
        world.reset()
        get(world, proxy, "https://rebind.example.com/")
        get(world, proxy, "https://rebind.example.com/")
        world.settle()
        assert world.dns_names().count("rebind.example.com") <= 2  # A and AAAA of one look-up
        assert not world.touched("10.0.0.5", 443)
        assert "10.0.0.5" not in front.said()
        proxy.stop()


def test_by_name_the_classes_are_lost_and_doctor_says_so(world: World, tmp_path: Path) -> None:
    with fronts.squid(world, _PORT) as front:
        proxy = behind(world, tmp_path, front, "resolve: upstream, no_proxy: [api.example.com]")
        marker = world.marker()
        world.reset()
        assert marker in get(world, proxy, f"https://private.example.com/{marker}").stdout
        assert world.saw(marker) == [("10.0.0.5", 443)]
        assert "no address class is checked" in proxy.command("doctor").stdout
        told = proxy.command("explain", "https://private.example.com/", "--resolve").stdout
        assert "looked up by the upstream proxy alone" in told
        # What is exempt is reached directly, and checked.
        assert get(world, proxy, "https://api.example.com/").stdout.count("200") == 2
        assert "api.example.com" not in front.said()
        proxy.stop()


_SNEAK = "CONNECT front.example.org:3128 HTTP/1.1\r\nHost: front.example.org:3128\r\n\r\n"


@pytest.mark.parametrize(
    ("without", "leaks"), [((), False), (("the proxy in front",), True)], ids=["whole", "without the guard"]
)
def test_a_tool_cannot_speak_to_the_front_itself(
    without: tuple[str, ...], leaks: bool, world: World, tmp_path: Path
) -> None:
    """An allowed name that leads to the front would be a way to ask it for anything."""
    with fronts.squid(world, _PORT, extra="acl CONNECT method CONNECT\nhttp_access allow CONNECT\n") as front:
        proxy = behind(world, tmp_path, front, "no_proxy: [10.0.0.0/8]", without=without)
        marker = world.marker()

        def attack() -> bool:
            with proxy.connect() as client:
                client.sendall(_SNEAK.encode())
                answer = client.recv(65_536)
                if b" 200 " in answer:
                    past = f"GET http://denied.example.com/{marker} HTTP/1.1\r\nHost: denied.example.com\r\n\r\n"
                    client.sendall(past.encode())
                    client.recv(65_536)
            world.settle()
            return bool(world.saw(marker))

        assert gets_out(attack, must=leaks) is leaks
        proxy.stop()


def test_a_build_that_falls_back_to_direct_is_seen(world: World, tmp_path: Path) -> None:
    """With the fall-back that other proxies have, bytes arrive while the front is down: the judge of
    `test_every_road_leads_through_the_front` sees them."""
    with fronts.tinyproxy(world, _PORT) as front:
        proxy = behind(world, tmp_path, front, without=("never directly",))
        front.stop()
        for url in ("http://api.example.com/", "https://api.example.com/", "https://inspected.example.com/"):
            assert gets_out(partial(reaches, world, proxy, url))
        proxy.stop()


@pytest.mark.parametrize(
    ("without", "leaks"), [((), False), (("plane: the proxy in front",), True)], ids=["whole", "without the guard"]
)
def test_the_native_plane_never_goes_past_the_front(
    without: tuple[str, ...], leaks: bool, world: World, tmp_path: Path
) -> None:
    """It grants by itself what went through the front before: while that is down, nothing may arrive."""
    with fronts.tinyproxy(world, _PORT, password=True) as front:
        proxy = behind(world, tmp_path, front, _AUTH, without=without, native=True)
        marker = world.marker()
        for _ in range(4):
            told = get(world, proxy, f"https://api.example.com/{marker}", "--cacert", str(world.certificate))
            assert f"GET /{marker} received 0" in told.stdout, told
        through = front.said().count("Established connection to host")
        # A build without the guard goes past it as soon as Python has published its grant.
        assert through == len(world.saw(marker)) or leaks
        front.stop()
        past = gets_out(partial(reaches, world, proxy, "https://api.example.com/"), must=leaks)
        assert past is leaks
        proxy.stop()  # which writes what the log did not have yet
        assert "upstream_error:upstream_proxy" in proxy.command("log").stdout or leaks
