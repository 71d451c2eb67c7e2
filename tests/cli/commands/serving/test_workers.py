"""`serve --workers N` as real processes: who serves, who dies, what stays counted and what is never exceeded."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPException

import pytest

from tests.cli.commands.serving.worker_processes import (
    WORKERS,
    asks_through,
    children,
    gone,
    restarted,
    serve,
    statuses,
    tunnel,
    tunnels_of,
    value,
    workers,
)
from tests.cli.program import A_SECOND, Origin, Serving, Workspace, eventually, literal, policy_text


def decisions(serving: Serving) -> float:
    lines = serving.page("/metrics").body.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("cloned_proxy_decisions_total{"))


def test_every_worker_serves_and_their_sum_is_what_was_asked(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    assert serving.page("/readyz").status == 200
    serve_here = workers(serving)
    assert len(serve_here) == WORKERS
    with ExitStack() as tunnels, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: tunnels.enter_context(tunnel(serving, origin)), range(60)))
        assert value(serving, 'cloned_proxy_open_tunnels{tool="_anonymous"}') == 60
        held = {pid: tunnels_of(pid, origin) for pid in serve_here}
        assert sum(held.values()) == 60
        assert min(held.values()) > 0, held
    statuses(serving, origin.url(), 30)
    statuses(serving, "http://denied.example/", 20)
    assert decisions(serving) == 110
    assert value(serving, 'cloned_proxy_blocked_hosts_total{host="denied.example",tool="_anonymous"}') == 20
    assert value(serving, "cloned_proxy_decision_duration_seconds_count") == 110
    assert value(serving, "cloned_proxy_policy_rules") == 1
    assert value(serving, 'cloned_proxy_policy_reloads_total{result="ok"}') == 1
    assert serving.page("/metrics").body.count("cloned_proxy_build_info{") == 1
    eventually(
        lambda: value(serving, 'cloned_proxy_open_tunnels{tool="_anonymous"}') == 0, what="the end of the tunnels"
    )


def tunnels_in_each(
    serving: Serving, origin: Origin, stack: ExitStack, pool: ThreadPoolExecutor, worker: int
) -> tuple[list[socket.socket], int]:
    """Open ones, and how many of them this worker has: some. Whoever is free accepts, at times one many in a row."""
    tunnels: list[socket.socket] = []

    def some_in_each() -> bool:
        tunnels.extend(pool.map(lambda _: stack.enter_context(tunnel(serving, origin)), range(40)))
        return 0 < tunnels_of(worker, origin) < len(tunnels)

    eventually(some_in_each, what="a tunnel in this worker, and one in another")
    return tunnels, tunnels_of(worker, origin)


@pytest.mark.alone
def test_a_killed_worker_takes_only_its_own_tunnels_and_is_back_within_a_second(
    workspace: Workspace, origin: Origin
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    victim = workers(serving)[1]
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        tunnels, held = tunnels_in_each(serving, origin, stack, pool, victim)
        counted, killed_at = decisions(serving), time.monotonic()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: restarted(serving, victim), what="the new worker")
        assert time.monotonic() - killed_at < A_SECOND
        assert decisions(serving) == counted
        assert value(serving, 'cloned_proxy_open_tunnels{tool="_anonymous"}') == len(tunnels) - held
        assert sum(asks_through(client) for client in tunnels) == len(tunnels) - held
        assert serving.get(origin.url()).status == 200
        assert decisions(serving) == counted + 1


@pytest.mark.alone
def test_a_worker_that_is_killed_under_load_takes_only_its_own_tunnels(workspace: Workspace, origin: Origin) -> None:
    """Every tunnel is busy at the moment of the kill; those of the other workers lose not one exchange."""
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    victim = workers(serving)[1]
    stop = threading.Event()

    def ask_all_the_time(client: socket.socket) -> bool:
        """Whether every exchange came to its end."""
        while not stop.is_set():
            if not asks_through(client):
                return False
        return True

    with ExitStack() as stack, ThreadPoolExecutor(16) as opening:
        tunnels, held = tunnels_in_each(serving, origin, stack, opening, victim)
        pool = stack.enter_context(ThreadPoolExecutor(len(tunnels)))
        stack.callback(stop.set)
        asking = [pool.submit(ask_all_the_time, client) for client in tunnels]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: restarted(serving, victim), what="the new worker")
        stop.set()
        assert sum(future.result(90) for future in asking) == len(tunnels) - held


def test_a_hung_worker_is_replaced(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = serve(workspace)
    victim = workers(serving)[1]
    os.kill(victim, signal.SIGSTOP)
    eventually(lambda: restarted(serving, victim), what="the new worker")
    assert serving.get(origin.url()).status == 200


def test_counters_never_fall_while_workers_are_killed_under_load(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = serve(workspace)
    stop, outcomes = threading.Event(), Counter[str]()

    def ask() -> None:
        while not stop.is_set():
            try:
                outcomes[str(serving.get(origin.url()).status)] += 1
            except (OSError, HTTPException):
                outcomes["lost"] += 1

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask) for _ in range(6)]
        seen = 0.0
        for kills in range(3):
            eventually(lambda: workers(serving), what="a worker")
            os.kill(workers(serving)[0], signal.SIGKILL)
            deadline = time.monotonic() + 0.8
            while time.monotonic() < deadline or outcomes["200"] <= 20 * (kills + 1):
                now = decisions(serving)
                assert now >= seen
                seen = now
        stop.set()
        for future in asking:
            future.result(90)
    assert set(outcomes) <= {"200", "lost"}
    assert outcomes["200"] > 50
    # What a killed worker had in hand: at most what six clients can have outstanding, for each of the kills.
    assert outcomes["lost"] <= 18
    assert outcomes["200"] <= decisions(serving) <= outcomes["200"] + outcomes["lost"]
    assert workspace.run("audit", "verify").returncode == 0


def test_the_chain_holds_and_is_complete_when_all_workers_write(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = serve(workspace)
    assert statuses(serving, origin.url(), 300) == {200: 300}
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert workspace.run("audit", "verify").returncode == 0
    entries = [json.loads(line) for line in workspace.run("log", "--json", "--since", "1h").stdout.splitlines()]
    assert Counter(entry["type"] for entry in entries) == {"decision": 300, "policy": 1}


@pytest.mark.alone
def test_a_policy_edit_cuts_tunnels_in_all_workers_within_a_second(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        tunnels = list(pool.map(lambda _: stack.enter_context(tunnel(serving, origin)), range(40)))
        workspace.write_policy(policy_text(allow=["other.example"]))
        started = time.monotonic()
        for client in tunnels:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert time.monotonic() - started < A_SECOND
    assert value(serving, 'cloned_proxy_policy_reloads_total{result="ok"}') == 2


def test_sighup_reads_the_policy_again_in_every_worker_and_a_bad_one_shows(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = serve(workspace)
    workspace.write_policy("version: 1\nmystery: 1\n")
    serving.signal(signal.SIGHUP)

    def told() -> bool:
        body = serving.page("/readyz").body
        return "mystery" in body and all(f"worker {number}:" in body for number in range(WORKERS))

    eventually(told, what="the problem of each worker")
    assert serving.page("/readyz").status == 503
    assert value(serving, "cloned_proxy_policy_last_reload_success") == 0
    workspace.write_policy(policy_text())
    eventually(lambda: serving.page("/readyz").status == 200, what="the good policy")
    assert serving.process.poll() is None


def test_a_worker_that_is_missing_or_hangs_makes_the_proxy_not_ready(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = serve(workspace)
    stopped = workers(serving)[2]
    os.kill(stopped, signal.SIGSTOP)
    try:
        eventually(lambda: "does not respond" in serving.page("/readyz").body, what="the alarm")
        assert serving.page("/healthz").status == 200
    finally:
        os.kill(stopped, signal.SIGCONT)
    eventually(lambda: serving.page("/readyz").status == 200, what="the end of the alarm")


def test_a_worker_that_cannot_start_again_shows_and_comes_back_when_it_can(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = serve(workspace)
    key = workspace.path / "identity.key"
    key.chmod(0o644)
    killed_at = time.monotonic()
    os.kill(workers(serving)[0], signal.SIGKILL)
    eventually(lambda: "worker 0 is not running" in serving.page("/readyz").body, what="the alarm")
    time.sleep(1.5)
    eventually(lambda: serving.log().count("others can read the key") >= 2, what="another attempt")
    assert "worker 0 is not running" in serving.page("/readyz").body
    attempts, seconds = serving.log().count("others can read the key"), time.monotonic() - killed_at
    assert attempts <= 3 + seconds, "ever later, not in a tight loop"
    assert serving.get("http://denied.example/").status == 403
    key.chmod(0o600)
    eventually(lambda: serving.page("/readyz").status == 200, what="the worker")


def test_a_dead_exposition_is_replaced_on_the_same_port(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = serve(workspace)
    eventually(lambda: len(workers(serving)) == WORKERS, what="every worker")
    (exposition,) = set(children(serving.process.pid)) - set(workers(serving))
    os.kill(exposition, signal.SIGKILL)

    def answers() -> bool:
        try:
            return gone(exposition) and serving.page("/readyz").status == 200
        except (OSError, HTTPException):  # the dead one's last connections
            return False

    eventually(answers, what="the new exposition")
