"""Three replicas behind a real HAProxy, set up as `docs/load-balancer.md` says: one killed, all restarted in turn.

A second address of it is set up worse than the page says: all connections go to one replica, which is asked each
second, and a connection that it refuses is lost. There a stop without its guards loses flows.
"""

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
from tests.net.replica_guards import THE_DELAY, THE_DRAIN
from tests.net.world import ROOT, World
from tests.proxy.support import connect_head

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

_BALANCER = "127.0.0.5"
_PORT = 8089
_STRICT_PORT = 8090
_STRICT = f"""
listen strict
  bind 127.0.0.1:{_STRICT_PORT}
  balance first
  retries 0
  no option redispatch
  timeout check 60s
  option httpchk GET /readyz
  default-server source {_BALANCER} send-proxy-v2 check inter 1s fall 1 rise 1
"""
_HOST = "api.example.com"
_POLICY = f"version: 1\nanonymous: global\nglobal:\n  allow: [{_HOST}]\n"


def _config(delay: float) -> str:
    return f"""
listen: {{proxy_protocol_from: [{_BALANCER}]}}
proxy: {{shutdown_delay_seconds: {delay}, drain_seconds: 60}}
"""


_WAIT = 60.0


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _WAIT
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Flow:
    """A TLS tunnel through the load balancer, in the middle of its request until `finish`."""

    def __init__(self, world: World, port: int = _PORT) -> None:
        connection = world.connect("127.0.0.1", port)
        try:
            self._tls = _tunnel(connection, world)
        except BaseException:
            connection.close()
            raise
        self._tls.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n")

    def finish(self) -> None:
        """Raises OSError where the tunnel was cut."""
        with self._tls as tls:
            tls.sendall(f"Host: {_HOST}\r\n\r\n".encode())
            if not tls.recv(64).startswith(b"HTTP/1."):
                _lost()


def _tunnel(connection: socket.socket, world: World) -> ssl.SSLSocket:
    connection.settimeout(_WAIT)
    connection.sendall(connect_head(443, _HOST))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1) or _lost()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    context = ssl.create_default_context(cafile=str(world.certificate))
    return context.wrap_socket(connection, server_hostname=_HOST)


def _lost() -> bytes:
    raise ConnectionResetError("the flow was cut")


@dataclass
class Fleet:
    world: World
    replicas: list[ProxyProcess]
    stats: Path

    def restart(self, at: int, *, delay: float = 2, without: Sequence[str] = ()) -> ProxyProcess:
        """Begins one that has ended, or is killed now, in its place; returns once HAProxy sees it."""
        old = self.replicas[at]
        old.kill()
        until(lambda: self.up() == self.up("strict") == 2, "HAProxy has not noticed")
        options = ProxyOptions(workspace=old.workspace, config=_config(delay), without=tuple(without))
        self.replicas[at] = ProxyProcess.start(self.world, old.workspace, old.port, _POLICY, options)
        until(lambda: self.up() == self.up("strict") == 3, "HAProxy does not see it again")
        return self.replicas[at]

    def up(self, balanced: str = "cloned-proxy") -> int:
        """How many replicas HAProxy sends connections to."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.stats))
            control.sendall(b"show stat\n")
            said = b"".join(iter(lambda: control.recv(65_536), b"")).decode()
        return len(re.findall(rf"^{balanced},(?:one|two|three),.*,UP,", said, re.MULTILINE))


def _configured(replicas: Sequence[ProxyProcess], stats: Path) -> str:
    """The block of the page, with the addresses that it has here."""
    [text] = re.findall(r"```haproxy\n(.*?)```", (ROOT / "docs/load-balancer.md").read_text(), re.DOTALL)
    text = text.replace("bind 10.0.0.5:8081", f"bind 127.0.0.1:{_PORT}")
    text = text.replace("default-server ", f"default-server source {_BALANCER} ")
    for place, replica in zip(("10.0.0.11", "10.0.0.12", "10.0.0.13"), replicas, strict=True):
        line = f"{place}:8081 port 8083"
        assert line in text
        text = text.replace(line, f"127.0.0.1:{replica.port} port {replica.metrics_port}")
    strict = _STRICT + "".join(line for line in text.splitlines(keepends=True) if line.startswith("  server "))
    return f"global\n  stats socket {stats} mode 600\n{text}{strict}"


@pytest.fixture(scope="module")
def fleet(world: World) -> Iterator[Fleet]:
    program = needed("haproxy")
    replicas = [world.serve(_POLICY, ProxyOptions(config=_config(2))) for _ in range(3)]
    with tempfile.TemporaryDirectory(prefix="haproxy-") as directory:
        stats, settings = Path(directory) / "stats", Path(directory) / "haproxy.cfg"
        settings.write_text(_configured(replicas, stats))
        with (Path(directory) / "log").open("wb") as log:
            balancer = world.spawn([program, "-db", "-f", str(settings)], stdout=log, stderr=log)
        made = Fleet(world, replicas, stats)
        try:
            until(lambda: stats.exists() or balancer.poll() is not None, "no HAProxy")
            assert balancer.poll() is None, (Path(directory) / "log").read_text()
            until(lambda: made.up() == made.up("strict") == 3, "HAProxy does not see the replicas")
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
    long = [Flow(fleet.world) for _ in range(6)]
    assert all(open_tunnels(replica) for replica in fleet.replicas)
    with loaded(fleet.world) as load:
        for at, replica in enumerate(fleet.replicas):
            replica.process.send_signal(signal.SIGTERM)
            until(lambda: fleet.up() == 2, "HAProxy has not noticed")
            _pass_beside(load)
            if at == 0:  # these were open on all of the replicas, also on this one, and end within its drain
                for flow in long:
                    flow.finish()
            replica.process.wait(_WAIT)
            fleet.restart(at)
    assert not load.failures
    assert load.done > 10


_WITHOUT_THE_DELAY = pytest.param([THE_DELAY], id="broken")
_WITHOUT_THE_DRAIN = pytest.param([THE_DRAIN], id="broken")


@pytest.mark.parametrize("without", [pytest.param([], id="ours"), _WITHOUT_THE_DELAY])
def test_a_stop_loses_no_flow_where_the_balancer_tries_nobody_twice(fleet: Fleet, without: list[str]) -> None:
    """The broken build closes before HAProxy asks it again. Where HAProxy happens to ask at once, it is tried anew."""
    deadline = time.monotonic() + _WAIT
    while True:
        stopped = fleet.restart(0, delay=600, without=without)
        Flow(fleet.world, _STRICT_PORT).finish()
        stopped.process.send_signal(signal.SIGTERM)
        lost = 0
        while fleet.up("strict") == 3:
            try:
                Flow(fleet.world, _STRICT_PORT).finish()
            except OSError:
                lost += 1
            time.sleep(0.01)
        if lost or not without:
            break
        assert time.monotonic() < deadline, "the build without its guard lost nothing"
    assert bool(lost) is bool(without)
    Flow(fleet.world, _STRICT_PORT).finish()


@pytest.mark.parametrize("without", [pytest.param([], id="ours"), _WITHOUT_THE_DRAIN])
def test_a_stop_cuts_no_flow_that_is_open(fleet: Fleet, without: list[str]) -> None:
    stopped = fleet.restart(0, delay=0, without=without)
    flows = [Flow(fleet.world, _STRICT_PORT) for _ in range(3)]
    until(lambda: open_tunnels(stopped) == 3, "the flows are not on the first replica")
    stopped.process.send_signal(signal.SIGTERM)
    until(lambda: _is_closed(stopped), "it accepts on")
    if without:
        stopped.process.wait(_WAIT)
    lost = 0
    for flow in flows:
        try:
            flow.finish()
        except OSError:
            lost += 1
    assert lost == (3 if without else 0)
    stopped.process.wait(_WAIT)


def _is_closed(replica: ProxyProcess) -> bool:
    try:
        replica.connect().close()
    except OSError:
        return True
    return False


def test_one_that_is_killed_takes_its_own_flows_alone(fleet: Fleet) -> None:
    fleet.restart(0)
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
