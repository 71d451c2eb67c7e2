"""What goes wrong around a proxy: slow and silent clients, sudden death, policies in motion."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import eventually
from tests.net.attacks.attempt import Attempt, read_all
from tests.net.attacks.client_hello import client_hello
from tests.net.load import ALWAYS, NEVER, SOMETIMES
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import ROOT, World

pytestmark = [pytest.mark.net, pytest.mark.timeout(120)]

_OPEN = """
version: 1
anonymous: global
global:
  allow: [api.example.com, silent.example.com]
"""
_WITHOUT = "version: 1\nanonymous: global\nglobal:\n  allow: [api.example.com]\n"
_WITH = "version: 1\nanonymous: global\nglobal:\n  allow: [api.example.com, other.example.com]\n"


@pytest.fixture(scope="module")
def long_running(world: World) -> Iterator[ProxyProcess]:
    running = world.serve(_OPEN, ProxyOptions(config="proxy: {head_timeout: 2.0, drain_seconds: 0.2}\n"))
    yield running
    running.stop()


@pytest.fixture
def proxy(fresh_world: World, long_running: ProxyProcess) -> ProxyProcess:
    """One proxy for all tests that it should survive, with its policy as at the start."""
    long_running.write_policy(_OPEN)
    deadline = time.monotonic() + 60
    while not (passes(long_running) and long_running.http_get("/readyz")[0] == 200):
        assert time.monotonic() < deadline, long_running.said()[-2000:]
        time.sleep(0.05)
    return long_running


def passes(proxy: ProxyProcess, host: str = ALWAYS) -> bool:
    """Whether a plain request and a tunnel get through, by what arrives."""
    attempt = Attempt(proxy.world, proxy, patience=30.0)  # of an answer; a refusal is one
    try:
        attempt.get(host)
        attempt.fetch(host)
    except OSError:
        return False
    return len(proxy.world.saw(attempt.marker)) == 2


def descriptors(proxy: ProxyProcess) -> int:
    return len(list(Path(f"/proc/{proxy.process.pid}/fd").iterdir()))


def hold(proxy: ProxyProcess, count: int, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that holds connections to the proxy; returns when it holds them all."""
    command = [sys.executable, "-m", "tests.net.hold", str(proxy.port), str(count), *arguments]
    process = proxy.world.spawn(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.readline()
    process.stdout.close()
    assert said.split() == [b"held", str(count).encode()], proxy.said()[-2000:]
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_heads_that_drip_are_cut_and_disturb_nobody(proxy: ProxyProcess) -> None:
    idle = descriptors(proxy)
    slow = hold(proxy, 300, "0.2")
    try:
        assert passes(proxy)
        eventually(lambda: descriptors(proxy) <= idle + 20, what="the end of them, though they drip on")
        assert passes(proxy)
    finally:
        end(slow)


def test_heads_of_a_megabyte_are_refused_in_bounded_memory(proxy: ProxyProcess) -> None:
    before = proxy.resident()
    attempt = Attempt(proxy.world, proxy, patience=1.0)
    head = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nX: " + b"y" * 1_000_000

    def send() -> None:
        with attempt.connection() as connection:
            try:
                connection.sendall(head)
                read_all(connection)
            except OSError:
                return

    threads = [threading.Thread(target=send) for _ in range(30)]
    for thread in threads:
        thread.start()
    assert passes(proxy)
    for thread in threads:
        thread.join()
    assert proxy.resident() - before < 32 * 1024**2
    assert passes(proxy)


def test_half_closed_tunnels_are_released(proxy: ProxyProcess) -> None:
    """Clients that said FIN and wait for a server that says nothing, and then go away."""
    attempt = Attempt(proxy.world, proxy)
    host = "silent.example.com"
    idle = descriptors(proxy)
    held = []
    for _ in range(50):
        connection = proxy.connect()
        connection.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
        connection.sendall(client_hello([host], session=attempt.marker.encode()))
        connection.shutdown(1)
        held.append(connection)
    assert passes(proxy)
    for connection in held:
        connection.close()
    eventually(lambda: descriptors(proxy) <= idle + 5, what="the release of their descriptors")
    assert passes(proxy)


def start_load(proxy: ProxyProcess, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.net.load", str(proxy.port), str(seconds), str(proxy.world.certificate)]
    return proxy.world.spawn(command, cwd=ROOT, stdout=subprocess.PIPE)


def result_of(load: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert load.stdout is not None
    with load.stdout:
        result: dict[str, Any] = json.loads(load.stdout.read())
    load.wait()
    return result


def check_load(world: World, result: dict[str, Any]) -> None:
    """No allowed request was lost, no denied one passed, and none went unanswered."""
    seen = result["seen"]
    assert {key for key in seen if key.startswith(ALWAYS)} == {f"{ALWAYS} 200"}, seen
    # A denied call is answered 403, and 429 by whoever is over its budget of denials.
    assert {key for key in seen if key.startswith(NEVER)} <= {f"{NEVER} 403", f"{NEVER} 429"}, seen
    assert f"{NEVER} 403" in seen
    # A tunnel whose rule has gone is cut; nothing else goes unanswered.
    cut = {f"{SOMETIMES} 0", f"{SOMETIMES} tunnel ConnectionResetError", f"{SOMETIMES} tunnel IncompleteReadError"}
    others = {key for key in seen if key.startswith(SOMETIMES)} - cut
    assert others <= {f"{SOMETIMES} 200", f"{SOMETIMES} 403", f"{SOMETIMES} 429"}, seen
    assert not world.touched(NEVER)
    assert NEVER not in world.dns_names()


def test_a_policy_that_changes_under_load_loses_and_leaks_nothing(fresh_world: World) -> None:
    change_under_load(fresh_world, seconds=6)


def change_under_load(fresh_world: World, seconds: int) -> None:
    proxy = fresh_world.serve(_WITH)
    load = start_load(proxy, seconds)
    changes = 0
    while load.poll() is None:
        proxy.write_policy(_WITHOUT if changes % 2 == 0 else _WITH)
        changes += 1
        time.sleep(0.07)
    result = result_of(load)
    check_load(fresh_world, result)
    assert changes > seconds * 5
    # Both versions were in force while it lasted, or this proved nothing.
    assert result["seen"][f"{SOMETIMES} 200"]
    assert result["seen"][f"{SOMETIMES} 403"]
    proxy.stop()


@pytest.mark.alone
def test_twenty_thousand_hosts_swapped_in_under_load(fresh_world: World) -> None:
    proxy = fresh_world.serve(_WITHOUT)
    load = start_load(proxy, 6)
    time.sleep(1.5)
    names = ["api.example.com", "other.example.com", *(f"host-{number}.example.com" for number in range(20_000))]
    hosts = "".join(f"    - {name}\n" for name in names)
    saved = time.monotonic()
    proxy.write_policy(_WITH.replace("[api.example.com, other.example.com]", f"\n{hosts}"))
    while not passes(proxy, SOMETIMES):
        assert time.monotonic() - saved < 10, proxy.said()[-2000:]
    active = time.monotonic() - saved
    result = result_of(load)
    check_load(fresh_world, result)
    # Loose bounds for a shared machine; the figures that are promised are measured by the benchmark.
    assert active < 5
    assert result["slowest"] < 3
    proxy.stop()


def test_a_policy_that_disappears_leaves_the_last_good_one_in_force(proxy: ProxyProcess) -> None:
    proxy.policy.unlink()
    eventually(lambda: proxy.http_get("/readyz")[0] == 503, what="not ready")
    assert passes(proxy)
    assert not passes(proxy, "evil.example.net")
    assert not proxy.world.touched("evil.example.net")
    proxy.write_policy(_WITHOUT.replace("api.example.com", "other.example.com"))
    eventually(lambda: passes(proxy, SOMETIMES), what="the new policy")
    assert not passes(proxy)
    assert proxy.http_get("/readyz")[0] == 200


@pytest.mark.parametrize(
    "garbage", ["", "\0\x01\x02", "version: 1\nglobal: {allow: ['*']}\n", "a: &a [*a]\n", "{" * 5000]
)
def test_a_broken_policy_leaves_the_last_good_one_in_force(proxy: ProxyProcess, garbage: str) -> None:
    proxy.write_policy(garbage)
    eventually(lambda: proxy.http_get("/readyz")[0] == 503, what="not ready")
    assert passes(proxy)
    assert not passes(proxy, "evil.example.net")


def test_sudden_death_during_writes_leaves_a_chain_that_verifies(fresh_world: World) -> None:
    die_during_writes(fresh_world, times=3)


def die_during_writes(fresh_world: World, times: int) -> None:
    proxy = fresh_world.serve(_WITH)
    for died in range(times):
        load = start_load(proxy, 60.0)
        while len(proxy.log()) < 40 * (died + 1):
            assert load.poll() is None, "the load ended before there was enough on record"
        proxy.kill()
        end(load)
        if load.stdout is not None:
            load.stdout.close()
        verified = proxy.command("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        proxy = fresh_world.serve(_WITH, ProxyOptions(workspace=proxy.workspace))
        assert passes(proxy)
    assert len(proxy.log()) >= 40 * times
    proxy.stop()
    assert proxy.command("audit", "verify").returncode == 0
