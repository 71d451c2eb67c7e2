"""Limits, leases and connections over `serve --workers N`: counted together, whoever dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.cli.commands.serving.worker_processes import restarted, serve, statuses, tunnels_of, value, workers
from tests.cli.program import TOOL, Answer, Origin, Workspace, eventually, literal, policy_text


def limited(origin: Origin, limits: str) -> str:
    text = policy_text(anonymous="deny", tool_allow=[literal(origin, protocols="[tcp]")])
    return text + f"    limits: {{{limits}}}\n"


@pytest.fixture
def credential(workspace: Workspace) -> dict[str, str]:
    workspace.write_policy(policy_text())
    minted = workspace.run("token", TOOL, "--json", env={"CLONED_EGRESS_PROXY": "http://127.0.0.1:8081"})
    assert minted.returncode == 0, minted.stderr
    token = re.search(r'"token": *"([^"]+)"', minted.stdout)
    assert token is not None, minted.stdout
    return {"Proxy-Authorization": f"Bearer {token[1]}"}


def within_a_minute[T](told: Callable[[], T]) -> T:
    """By a proxy of its own: where a busy machine takes longer, the window is another one, and it begins anew."""
    while True:
        began = time.monotonic()
        found = told()
        if time.monotonic() - began < 60:
            return found


def test_requests_a_minute_hold_over_all_workers(
    workspace: Workspace, origin: Origin, credential: dict[str, str]
) -> None:
    workspace.write_policy(limited(origin, "requests_per_minute: 20"))

    def told() -> tuple[Counter[int], Answer, int]:
        serving, before = serve(workspace), len(origin.seen)
        answers = statuses(serving, origin.url(), 60, credential)
        return answers, serving.get(origin.url(), headers=credential), len(origin.seen) - before

    answers, refused, passed = within_a_minute(told)
    assert answers == {200: 20, 429: 40}
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert passed == 20


def test_a_killed_worker_does_not_refill_a_budget(
    workspace: Workspace, origin: Origin, credential: dict[str, str]
) -> None:
    workspace.write_policy(limited(origin, "requests_per_minute: 20"))

    def told() -> tuple[Counter[int], Counter[int]]:
        serving = serve(workspace)
        before = statuses(serving, origin.url(), 20, credential)
        for victim in workers(serving):
            os.kill(victim, signal.SIGKILL)
            eventually(lambda dead=victim: restarted(serving, dead), what="the new worker")  # type: ignore[misc]  # a default
        return before, statuses(serving, origin.url(), 10, credential)

    assert within_a_minute(told) == ({200: 20}, {429: 10})


def test_concurrent_flows_hold_over_all_workers_and_a_killed_worker_gives_its_own_back(
    workspace: Workspace, origin: Origin, credential: dict[str, str]
) -> None:
    workspace.write_policy(limited(origin, "concurrent: 12"))
    serving = serve(workspace)
    place = f"127.0.0.1:{origin.port}"
    head = (
        f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: {credential['Proxy-Authorization']}\r\n\r\n"
    )

    def connect(stack: ExitStack) -> bytes:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=90))
        client.sendall(head.encode())
        return client.recv(12)[9:]

    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        answers = Counter(pool.map(lambda _: connect(stack), range(48)))
        assert answers == {b"200": 12, b"429": 36}
        victim = max(workers(serving), key=lambda pid: tunnels_of(pid, origin))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: restarted(serving, victim), what="the new worker")
        again = Counter(pool.map(lambda _: connect(stack), range(48)))
        open_now = value(serving, f'cloned_proxy_open_tunnels{{tool="{TOOL}"}}')
        assert again[b"200"] > 0
        assert open_now == 12


def test_bytes_an_hour_hold_over_all_workers(workspace: Workspace, origin: Origin, credential: dict[str, str]) -> None:
    workspace.write_policy(limited(origin, "bytes_per_hour: 2KiB"))
    serving = serve(workspace)
    passed = 0
    for _ in range(60):
        answer = serving.get(origin.url("/" + "x" * 100), headers=credential)
        if answer.status == 429:
            break
        passed += 1
    assert 2 <= passed <= 40
    assert statuses(serving, origin.url(), 12, credential) == {429: 12}


def test_a_lease_is_spent_exactly_once_over_all_workers(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, max_uses="17")]))
    serving = serve(workspace)
    answers = statuses(serving, origin.url(), 60)
    assert answers == {200: 17, 403: 43}
    assert len(origin.seen) == 17
    refused = serving.get(origin.url())
    assert refused.reason == "lease_used_up"


def test_two_programs_on_one_workspace_share_a_lease(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, max_uses="10")]))
    first, second = workspace.serve(), serve(workspace)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda serving: statuses(serving, origin.url(), 12), (first, second)))
    assert sum(answer[200] for answer in answers) == 10
    assert len(origin.seen) == 10


def test_max_connections_holds_over_all_workers(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    config = workspace.path / "config.yaml"
    config.write_text("proxy: {max_connections: 20}\n")
    config.chmod(0o600)
    serving = serve(workspace)
    with ExitStack() as stack:
        place = f"127.0.0.1:{origin.port}"
        request = f"GET {origin.url()} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode()
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=60)) for _ in range(30)
        ]
        last = clients[-1]
        last.sendall(request)
        last.settimeout(0.3)
        with pytest.raises(TimeoutError):  # it waits, whichever worker it is for
            last.recv(12)
        last.settimeout(60)
        for client in clients[:-1]:
            client.close()
        assert last.recv(12) == b"HTTP/1.1 200"


def test_no_tool_takes_the_last_fifth_of_the_connections(
    workspace: Workspace, origin: Origin, credential: dict[str, str]
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    config = workspace.path / "config.yaml"
    config.write_text("proxy: {max_connections: 20}\n")
    config.chmod(0o600)
    serving = serve(workspace)
    place = f"127.0.0.1:{origin.port}"
    with ExitStack() as stack:

        def connect(field: str = "") -> bytes:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=90))
            client.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{field}\r\n".encode())
            answer = client.recv(12)[9:]
            if answer != b"200":
                client.close()
            return answer

        assert Counter(connect() for _ in range(22)) == {b"200": 16, b"429": 6}
        other = f"Proxy-Authorization: {credential['Proxy-Authorization']}\r\n"
        assert connect(other) == b"200"
