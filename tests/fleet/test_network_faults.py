"""Real faults of hosts and networks: a follower of the store that lags, half of a network, a full disk, other workers.

Each replica is the real `serve` in a network namespace of its own; what is cut is a route, what is full is a tmpfs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from cloned_proxy.fleet.signed.keys import SigningKey
from tests.fleet.conftest import RedisServer, need_redis
from tests.fleet.replicas import Replica, policy_for, publish
from tests.free_port import free_port
from tests.net import namespace
from tests.net.replica_guards import READING_AT_CONNECT
from tests.net.world import ROOT

_WAIT = 60.0
_STORE = "10.77.0.1"
_FAR, _DEAF = "10.77.0.2", "10.77.1.2"
"""Of the hosts that are cut off, each on a line of its own."""
_PORT, _WEB, _PROXY, _METRICS = 7001, 9000, 8001, 8003
_WORKERS = 3
_PROGRAM = (str(Path(sys.executable).with_name("cloned-proxy")),)
_BROKEN = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.net.broken_builds", READING_AT_CONNECT, "--")
_FIGURES = re.compile(r"^cloned_proxy_fleet_(\w+)(?:\{.*\})? (\S+)$", re.MULTILINE)


# The store's follower -------------------------------------------------------------------------------------------------


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    begun: list[Replica] = []

    async def make(**settings: Any) -> Replica:
        begun.append(Replica(tmp_path / "a", **settings))
        return await begun[-1].start()

    yield make
    for each in begun:
        await each.stop()


async def test_a_failover_to_a_follower_that_lags_takes_nothing_back(
    start: Callable[..., Awaitable[Replica]], store: RedisServer, redis_directory: Path, tmp_path: Path
) -> None:
    key = SigningKey.generate()
    place_of_follower = redis_directory / f"f{time.monotonic_ns():x}"
    place_of_follower.mkdir()
    follower = RedisServer(place_of_follower)
    follower.start()
    try:
        await publish(store.url, key, policy_for("old.example"), tmp_path)
        one = await start(store=store.url, trust=[key.public], poll="1s")
        await one.until_version(1)
        _follow(follower, store)
        await one.until(lambda: _version(follower) == 1)
        with follower.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")  # it hears of nothing from here on
        await publish(store.url, key, policy_for("new.example"), tmp_path, wait=0)
        await one.until_version(2)
        # The failover: the store is gone, and where it was answers a follower that never heard of version 2.
        store.kill()
        with follower.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        follower.socket.rename(store.socket)
        await one.until_refused("rollback")
        assert one.policy.number == (1, 2)
        assert one.allows("new.example")
        assert not one.allows("old.example")
        # Whoever published knows the number, and goes on behind it.
        await publish(store.url, key, policy_for("third.example"), tmp_path, wait=0)
        await one.until_version(3)
        assert one.allows("third.example")
    finally:
        follower.kill()


def _follow(follower: RedisServer, store: RedisServer) -> None:
    """By a port of loopback, as followers do; the store opens one for it."""
    with store.client() as leading, follower.client() as client:
        for _ in range(20):
            port = free_port()
            try:
                leading.config_set("port", port)
            except redis.ResponseError:
                continue
            client.execute_command("REPLICAOF", "127.0.0.1", str(port))
            return
    pytest.fail("no port for the store")


def _version(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.hget("cloned:{acme}:policy", "version") or 0)


# Hosts ----------------------------------------------------------------------------------------------------------------


class Host:
    """A network namespace with one process that holds it."""

    def __init__(self) -> None:
        self._holder = namespace.start(["sleep", "infinity"])
        self._children: list[subprocess.Popen[bytes]] = []
        own = os.readlink("/proc/self/ns/net")  # noqa: PTH115  the target is no path
        until(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != own)  # noqa: PTH115  see above

    @property
    def pid(self) -> int:
        return self._holder.pid

    def run(self, *command: str) -> str:
        done = subprocess.run(
            namespace.enter(self.pid, command, None), capture_output=True, text=True, check=False, timeout=_WAIT
        )
        return done.stdout + done.stderr

    def start(self, *command: str, log: Path) -> None:
        with log.open("wb") as output:
            line = namespace.enter(self.pid, command, log.parent)
            self._children.append(subprocess.Popen(line, stdout=output, stderr=output))

    def stop(self) -> None:
        for child in (*self._children, self._holder):
            child.kill()
            child.wait()

    def status(self) -> str:
        """Of a request through the proxy of this host, whose answer is the web server's or the proxy's own."""
        url = f"http://{_STORE}:{_WEB}/"
        return self.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-x", f"http://127.0.0.1:{_PROXY}", url)

    def ready(self) -> str:
        return self.run("curl", "-s", f"http://127.0.0.1:{_METRICS}/readyz")

    def figure(self, name: str) -> float:
        said = self.run("curl", "-s", f"http://127.0.0.1:{_METRICS}/metrics")
        return dict[str, float]((found, float(value)) for found, value in _FIGURES.findall(said)).get(name, -1.0)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Network:
    """A host with the store, a web server and workers that serve; and two with one proxy each.

    One of those is `deaf`: it reads nothing when it reaches the store again. No replica reads but at connects and
    for news: the time of its poll is an hour.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.near, self.far, self.deaf = Host(), Host(), Host()
        self._line(self.far, "veth0", _STORE, _FAR)
        self._line(self.deaf, "veth1", "10.77.1.1", _DEAF)
        assert not self.deaf.run("ip", "route", "add", f"{_STORE}/32", "via", "10.77.1.1")
        self.key = SigningKey.generate()
        store = [need_redis(), "--port", str(_PORT), "--bind", _STORE, "--protected-mode", "no", "--save", ""]
        self.near.start(*store, log=directory / "store.log")
        web = [sys.executable, "-m", "http.server", str(_WEB), "--bind", _STORE, "--directory", str(directory / "web")]
        (directory / "web").mkdir()
        self.near.start(*web, log=directory / "web.log")
        self.workspace = directory / "publisher"
        self.workspace.mkdir(mode=0o700)
        (self.workspace / "policy.yaml").touch(mode=0o600)
        said = self.near.run(*_PROGRAM, "fleet", "init", "acme", "--store", f"redis://{_STORE}:{_PORT}",
                             "--workspace", str(self.workspace))  # fmt: skip
        assert "trust:" in said, said
        self._serve(self.near, "near", "--workers", str(_WORKERS))
        self._serve(self.far, "far")
        self._serve(self.deaf, "deaf", program=_BROKEN)

    def _line(self, host: Host, name: str, near: str, far: str) -> None:
        """From the near host to this one."""
        ends = ("netns", str(self.near.pid), "type", "veth", "peer", "name", name, "netns", str(host.pid))
        subprocess.run(["ip", "link", "add", name, *ends], check=True)
        for end, address in ((self.near, near), (host, far)):
            for command in (f"addr add {address}/24 dev {name}", f"link set {name} up", "link set lo up"):
                assert not end.run("ip", *command.split())

    def _serve(self, host: Host, name: str, *more: str, program: tuple[str, ...] = _PROGRAM) -> None:
        workspace = self.directory / name
        workspace.mkdir(mode=0o700)
        host.run("mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(workspace))
        config = (self.workspace / "config.yaml").read_text().replace("fleet:\n", "fleet:\n  poll: 1h\n")
        host.run("sh", "-c", f"umask 077; cat > {workspace}/config.yaml <<'END'\n{config}\nEND")
        host.start(
            *program, "serve", "--workspace", str(workspace), "--listen", f"127.0.0.1:{_PROXY}",
            "--metrics", f"127.0.0.1:{_METRICS}", "--control", "off", *more, log=self.directory / f"{name}.log",
        )  # fmt: skip

    def publish(self, *, opens: bool, wait: float = 30) -> str:
        """A policy that lets everybody to the web server, or nobody anywhere."""
        rule = f"{{host: {_STORE}, ports: [{_WEB}], addresses: [private]}}" if opens else ""
        text = f"version: 1\nanonymous: global\nglobal: {{allow: [{rule}]}}\n"
        (self.workspace / "policy.yaml").write_text(text)
        return self.near.run(*_PROGRAM, "fleet", "publish", "--reason", "test", "--wait", str(wait),
                             "--workspace", str(self.workspace))  # fmt: skip

    def stop(self) -> None:
        for host in (self.near, self.far, self.deaf):
            host.stop()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    need_redis()
    if reason := namespace.why_not() or ("" if os.geteuid() == 0 else "not root") or _missing("curl"):
        if os.environ.get("CI") == "true":
            pytest.fail(f"namespaces are required in CI: {reason}")
        pytest.skip(f"NO NAMESPACES, faults of networks were not tried: {reason}")
    made = Network(tmp_path_factory.mktemp("network"))
    try:
        for host in (made.near, made.far, made.deaf):
            until(partial(_connected, host))
        yield made
    finally:
        made.stop()


def _connected(host: Host) -> bool:
    return host.figure("connected") == 1


def _away(host: Host) -> bool:
    return host.figure("connected") == 0


def _missing(program: str) -> str:
    return "" if shutil.which(program) else f"{program} is missing"


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_half_of_the_network_is_cut_and_serves_on(network: Network) -> None:
    """And what was taken back meanwhile is gone as soon as it is whole again; not in the build that does not ask."""
    cut_off = {network.far: _FAR, network.deaf: _DEAF}
    said = network.publish(opens=True)
    assert "in force on 3 replicas" in said, said
    assert [host.status() for host in (network.near, *cut_off)] == ["200"] * 3
    # One direction alone: what these hosts say arrives, and no answer comes back.
    for address in cut_off.values():
        assert not network.near.run("ip", "route", "add", "blackhole", f"{address}/32")
    said = network.publish(opens=False, wait=2)
    assert "1 replica" in said, said
    # Each worker has it, those that do not lead as well: more requests than one of them would happen to get.
    assert {network.near.status() for _ in range(8 * _WORKERS)} == {"403"}
    for host in cut_off:
        until(partial(_away, host))
        assert host.figure("policy_version") == 1  # fail static: the last one that it knows
        assert '"ready"' in host.ready()
    for address in cut_off.values():
        assert not network.near.run("ip", "route", "del", "blackhole", f"{address}/32")
    until(lambda: network.far.figure("policy_version") == 2)
    assert network.far.status() == "403"
    until(lambda: _connected(network.deaf))
    assert network.deaf.figure("policy_version") == 1
    assert network.deaf.status() == "200", "without its guard it would serve what was taken back on"


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_disk_keeps_no_version_from_acting(network: Network) -> None:
    network.publish(opens=True)
    until(lambda: network.far.status() == "200")
    version = network.far.figure("policy_version")
    fill = network.directory / "far" / "fill"
    network.far.run("dd", "if=/dev/zero", f"of={fill}", "bs=4k")
    network.publish(opens=False)
    until(lambda: network.far.figure("policy_version") == version + 1)
    assert network.far.status() in {"403", "503"}  # denied; 503 where not even that can be put on record
    until(lambda: "could not be kept" in network.far.ready())
    network.far.run("rm", str(fill))
    until(lambda: "could not be kept" not in network.far.ready())
    until(lambda: network.far.status() == "403")
