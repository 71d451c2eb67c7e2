"""Three replicas behind a real HAProxy, set up as `docs/load-balancer.md` says: one killed, all restarted in turn."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.net.fronts import needed
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import ROOT, World
from tests.proxy.support import connect_head

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

_BALANCER = "127.0.0.5"
_PORT = 8089
_HOST = "api.example.com"
_POLICY = f"version: 1\nanonymous: global\nglobal:\n  allow: [{_HOST}]\n"
_CONFIG = f"""
listen: {{proxy_protocol_from: [{_BALANCER}]}}
proxy: {{shutdown_delay_seconds: 2, drain_seconds: 60}}
"""
_WAIT = 60.0


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _WAIT
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Flow:
    """A TLS tunnel through the load balancer, in the middle of its request until `finish`."""

    def __init__(self, world: World) -> None:
        connection = world.connect("127.0.0.1", _PORT)
        connection.settimeout(_WAIT)
        connection.sendall(connect_head(443, _HOST))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1) or _lost()
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        context = ssl.create_default_context(cafile=str(world.certificate))
        self._tls = context.wrap_socket(connection, server_hostname=_HOST)
        self._tls.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n")

    def finish(self) -> None:
        """Raises OSError where the tunnel was cut."""
        with self._tls as tls:
            tls.sendall(f"Host: {_HOST}\r\n\r\n".encode())
            if not tls.recv(64).startswith(b"HTTP/1."):
                _lost()


def _lost() -> bytes:
    raise ConnectionResetError("the flow was cut")


@dataclass
class Fleet:
    world: World
    replicas: list[ProxyProcess]
    stats: Path

    def up(self) -> int:
        """How many replicas HAProxy sends connections to."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.stats))
            control.sendall(b"show stat\n")
            said = b"".join(iter(lambda: control.recv(65_536), b"")).decode()
        return len(re.findall(r"^cloned-proxy,(?:one|two|three),.*,UP,", said, re.MULTILINE))


def _configured(replicas: Sequence[ProxyProcess], stats: Path) -> str:
    """The block of the page, with the addresses that it has here."""
    [text] = re.findall(r"```haproxy\n(.*?)```", (ROOT / "docs/load-balancer.md").read_text(), re.DOTALL)
    text = text.replace("bind 10.0.0.5:8081", f"bind 127.0.0.1:{_PORT}")
    text = text.replace("default-server ", f"default-server source {_BALANCER} ")
    for place, replica in zip(("10.0.0.11", "10.0.0.12", "10.0.0.13"), replicas, strict=True):
        line = f"{place}:8081 port 8083"
        assert line in text
        text = text.replace(line, f"127.0.0.1:{replica.port} port {replica.metrics_port}")
    return f"global\n  stats socket {stats} mode 600\n{text}"


@pytest.fixture(scope="module")
def fleet(world: World) -> Iterator[Fleet]:
    program = needed("haproxy")
    replicas = [world.serve(_POLICY, ProxyOptions(config=_CONFIG)) for _ in range(3)]
    with tempfile.TemporaryDirectory(prefix="haproxy-") as directory:
        stats, settings = Path(directory) / "stats", Path(directory) / "haproxy.cfg"
        settings.write_text(_configured(replicas, stats))
        with (Path(directory) / "log").open("wb") as log:
            balancer = world.spawn([program, "-db", "-f", str(settings)], stdout=log, stderr=log)
        made = Fleet(world, replicas, stats)
        try:
            until(lambda: stats.exists() or balancer.poll() is not None, "no HAProxy")
            assert balancer.poll() is None, (Path(directory) / "log").read_text()
            until(lambda: made.up() == 3, "HAProxy does not see the replicas")
            yield made
        finally:
            balancer.kill()
            balancer.wait()
            for replica in made.replicas:
                replica.kill()


def open_tunnels(replica: ProxyProcess) -> int:
    [found] = re.findall(r"^cloned_proxy_open_tunnels(?:\{.*\})? (\S+)$", replica.http_get("/metrics")[1], re.MULTILINE)
    return int(float(found))


@dataclass
class Load:
    """Flow after flow in a thread, until `stop`."""

    world: World
    stopping: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                Flow(self.world).finish()
                self.done += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            time.sleep(0.01)


@contextlib.contextmanager
def loaded(world: World) -> Iterator[Load]:
    load = Load(world)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        thread.join()


def _pass_beside(load: Load) -> None:
    before = load.done
    until(lambda: load.done > before + 3 or load.failures, "nothing passes beside it")


def test_a_rolling_restart_loses_no_flow(fleet: Fleet) -> None:
    long: list[Flow] = []

    def everybody_has_some() -> bool:
        """HAProxy leaves out who is slow with an answer to its look."""
        long.extend(Flow(fleet.world) for _ in range(6))
        return all(open_tunnels(replica) for replica in fleet.replicas)

    until(everybody_has_some, "a flow through each replica")
    with loaded(fleet.world) as load:
        for at, replica in enumerate(fleet.replicas):
            replica.process.send_signal(signal.SIGTERM)
            until(lambda: fleet.up() == 2, "HAProxy has not noticed")
            _pass_beside(load)
            if at == 0:  # these were open on all of the replicas, also on this one, and end within its drain
                for flow in long:
                    flow.finish()
            replica.process.wait(_WAIT)
            fleet.replicas[at] = ProxyProcess.start(
                fleet.world,
                replica.workspace,
                replica.port,
                _POLICY,
                ProxyOptions(workspace=replica.workspace, config=_CONFIG),
            )
            until(lambda: fleet.up() == 3, "HAProxy does not see it again")
    assert not load.failures
    assert load.done > 10


def test_one_that_is_killed_takes_its_own_flows_alone(fleet: Fleet) -> None:
    flows: list[Flow] = []

    def everybody_has_some() -> bool:
        """HAProxy leaves out who is slow with an answer to its look."""
        flows.extend(Flow(fleet.world) for _ in range(9))
        return all(open_tunnels(replica) for replica in fleet.replicas)

    until(everybody_has_some, "a flow through each replica")
    shares = [open_tunnels(replica) for replica in fleet.replicas]
    assert sum(shares) == len(flows)
    fleet.replicas[0].kill()
    for _ in range(6):  # at once, whether HAProxy has noticed or not
        Flow(fleet.world).finish()
    lost = 0
    for flow in flows:
        try:
            flow.finish()
        except OSError:
            lost += 1
    assert lost == shares[0]
