"""A proxy that serves at load while permissions end and its wall clock is set: what is denied by then arrives nowhere.

One process of each gate, with one load on it for everything: clients that ask all the time, each in its own way, for
hosts that each lose their permission by something else. A request says in its path when it was sent. The judge is what
the hosts get. `tests/proxy/test_changes_under_load.py` has the same in one process, to the turn of the loop.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloned_proxy.fleet.signed.keys import SigningKey
from tests.fleet.minting import CLUSTER, EC, RSA, SUBJECT, jwk, jwks, pod_claims, pod_header, sealed
from tests.fleet.replicas import envelope
from tests.net.load_process import WAYS, MarkedLoad, marked_load
from tests.net.proxy_process import PROGRAM, ProxyOptions, ProxyProcess, replace
from tests.net.wall_clock import WallClock
from tests.net.world import World
from tests.proxy.support import need_plane

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

KEEPS, NEVER = "api.example.com", "evil.example.net"
BY_RULE, BY_LEASE, BY_TOKEN, BY_KEY = "alpha.example.com", "beta.example.com", "files.example.com", "other.example.com"
"""Hosts, by what ends their permission."""
LIMITED = "shell.example.com"
_PER_MINUTE = 20

_HOUR, _DAY = 3600, 86_400
_OPENED = (*WAYS, "opened")
_REFUSED = {403, 407, 429, 0}
"""Denied; without a good credential; the same for who is refused too often; cut."""
_ENOUGH = 5
_PATIENT = {"head_timeout": 120.0, "connect_timeout": 60.0, "keep_alive_timeout": 120.0}
"""Nobody is given up for being slow on a busy machine."""


def policy(*, with_rule: bool, until: float) -> str:
    end = datetime.fromtimestamp(until, UTC).isoformat()
    hosts = [KEEPS, *([BY_RULE] if with_rule else []), f"{{host: {BY_LEASE}, expires: {end}}}"]
    return (
        f"version: 1\nanonymous: global\nglobal:\n  allow: [{', '.join(hosts)}]\ntools:\n"
        f"  token@v1: {{allow: [{BY_TOKEN}]}}\n"
        f"  pod@v1: {{allow: [{BY_KEY}]}}\n"
        f"  few@v1: {{allow: [{LIMITED}], limits: {{requests_per_minute: {_PER_MINUTE}}}}}\n"
    )


@dataclass
class Scene:
    world: World
    proxy: ProxyProcess
    clock: WallClock
    key: SigningKey
    until: float

    def arrived(self, host: str, word: str, ways: tuple[str, ...] = _OPENED) -> set[str]:
        text = self.world.text_at(host, 80) + self.world.text_at(host, 443)
        return set(re.findall(rf"GET (/{word}-(?:{'|'.join(ways)})-\d+) HTTP", text))


def start(world: World, directory: Path, plane: str) -> Scene:
    """In a fleet of its own, whose policy is a signed file: there keys are rotated while it serves."""
    key, clock, until = SigningKey.generate(), WallClock(directory), time.time() + _HOUR
    workspace = directory / "workspace"
    workspace.mkdir(mode=0o700)
    replace(workspace / "jwks.json", jwks(jwk(RSA, "k1")).decode())
    publish(workspace, key, policy(with_rule=True, until=until), 1)
    pods = {"issuer": CLUSTER, "audience": "cloned-proxy", "jwks": "jwks.json", "map": {SUBJECT: "pod@v1"}}
    config = {
        "fleet": {"name": "acme", "trust": [key.public], "issuers": [pods]},
        "policy": "envelope.json",
        "proxy": _PATIENT,
    }
    options = ProxyOptions(
        program=clock.command(PROGRAM, "serve"), config=json.dumps(config), workspace=workspace, plane=plane
    )
    return Scene(world, world.serve("", options), clock, key, until)


def publish(workspace: Path, key: SigningKey, text: str, version: int) -> None:
    replace(workspace / "envelope.json", envelope(text.encode(), version, key).decode())


def targets(scene: Scene) -> list[str]:
    """With credentials that are good for an hour, or, of a pod, for long enough before and after."""
    at = time.time()
    pod = sealed(pod_header(), pod_claims(iat=at - 10 * _DAY, nbf=at - 10 * _DAY, exp=at + 10 * _DAY), RSA)
    token, few = scene.proxy.token("token@v1"), scene.proxy.token("few@v1", ttl=30 * _DAY)
    credentials = {BY_TOKEN: token, BY_KEY: pod, LIMITED: few}
    return [f"{host}={credentials.get(host, '')}" for host in (KEEPS, NEVER, BY_RULE, BY_LEASE, *credentials)]


def check_goes_on(load: MarkedLoad, word: str, *hosts: str) -> None:
    load.say(word)
    for host in hosts:
        load.until(word, {200}, host=host, enough=_ENOUGH)


def check_ends(scene: Scene, load: MarkedLoad, word: str, ends: dict[str, tuple[str, ...]]) -> None:
    """The change was made: it is waited for, and what is asked from then on, by these ways, arrives nowhere."""
    load.say(f"late{word}")
    for host, ways in ends.items():
        load.until(f"late{word}", _REFUSED, host=host, ways=ways, enough=_ENOUGH)
    check_goes_on(load, word, KEEPS)
    for host, ways in ends.items():
        load.until(word, _REFUSED, host=host, ways=ways, enough=_ENOUGH)
        assert not scene.arrived(host, word, ways), (host, word)
    assert scene.arrived(KEEPS, word)


@pytest.mark.parametrize("plane", ["off", "require"])
def test_what_ends_while_it_serves_ends_at_once_whatever_the_clock_says(
    fresh_world: World, tmp_path: Path, plane: str
) -> None:
    if plane == "require":
        need_plane()
    scene, began = start(fresh_world, tmp_path, plane), time.monotonic()
    proxy, clock = scene.proxy, scene.clock
    with marked_load(proxy, *targets(scene), clients=1, ways=_OPENED, pause=0.05) as load:
        check_goes_on(load, "first", KEEPS, BY_RULE, BY_LEASE, BY_TOKEN, BY_KEY)
        clock.set(-_DAY)
        check_goes_on(load, "back", KEEPS, BY_RULE, BY_LEASE, BY_TOKEN, BY_KEY)
        clock.set(2 * _HOUR)
        check_ends(scene, load, "ahead", {BY_LEASE: _OPENED, BY_TOKEN: WAYS})
        clock.set(-_DAY)  # what names a time by this clock alone is good again; a lease is not
        check_goes_on(load, "again", BY_TOKEN, BY_RULE, BY_KEY)
        check_ends(scene, load, "still", {BY_LEASE: _OPENED})
        replace(proxy.files / "jwks.json", jwks(jwk(EC, "k2")).decode())
        publish(proxy.files, scene.key, policy(with_rule=False, until=scene.until), 2)
        check_ends(scene, load, "gone", {BY_KEY: WAYS, BY_RULE: _OPENED})
        told = list(load.told.values())
    seconds = time.monotonic() - began
    proxy.stop()
    assert {each.status for each in told if each.host == KEEPS} == {200}
    assert {each.status for each in told if each.host == NEVER} <= {403, 429}
    assert not scene.world.touched(NEVER)
    check_log(proxy, seconds)


def check_log(proxy: ProxyProcess, seconds: float) -> None:
    """All of it is there in the order in which it happened, and no step of the clock gave anybody a new minute."""
    verified = proxy.command("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    entries = proxy.log("--since", "30d")
    times = [datetime.fromisoformat(entry["at"]).timestamp() for entry in entries]
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len([step for step in steps if step < -_HOUR]) >= 2
    assert len([step for step in steps if step > _HOUR]) >= 1
    granted = [entry for entry in entries if entry.get("tool") == "few@v1" and entry.get("verdict") == "allow"]
    assert _PER_MINUTE <= len(granted) <= _PER_MINUTE * (seconds // 60 + 2)
