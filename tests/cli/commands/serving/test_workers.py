"""`serve --workers N` as real processes: who serves, who dies, what stays counted and what is never exceeded."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.cli.program import A_SECOND, TOOL, Origin, Serving, Workspace, eventually, literal, policy_text

WORKERS = 3


def serve(workspace: Workspace, *arguments: str) -> Serving:
    return workspace.serve("--workers", str(WORKERS), *arguments)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(serving: Serving) -> list[int]:
    """The workers' process ids, in the order in which they were started: whatever listens on the proxy's port."""
    return [pid for pid in children(serving.process.pid) if listens(pid, serving.port)]


def listens(pid: int, port: int) -> bool:
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in tcp_of(pid))


def tunnels_of(pid: int, origin: Origin) -> int:
    """How many connections to the origin the process holds: one per tunnel, whatever else it has open."""
    return sum(row[3] == "01" and row[2].endswith(f":{origin.port:04X}") for row in tcp_of(pid))


def tcp_of(pid: int) -> list[list[str]]:
    """The rows of /proc/net/tcp (1: local address, 2: remote address, 3: state) of the process's own sockets."""
    targets = set()
    with suppress(OSError):  # The process, or one of its descriptors, may be gone while they are listed.
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                targets.add(str(entry.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row for row in rows if f"socket:[{row[9]}]" in targets]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def tunnel(serving: Serving, origin: Origin) -> Iterator[socket.socket]:
    """An open raw tunnel to the origin."""
    place = f"127.0.0.1:{origin.port}"
    with socket.create_connection(("127.0.0.1", serving.port), timeout=90) as client:
        client.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        yield client


def asks_through(client: socket.socket) -> bool:
    """Whether the tunnel still works, end to end."""
    try:
        client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\n\r\n")
        return b"reached" in _until_reached(client)
    except OSError:
        return False


def _until_reached(client: socket.socket) -> bytes:
    data = b""
    while b"reached" not in data and (more := client.recv(4096)):
        data += more
    return data


def value(serving: Serving, series: str) -> float:
    """The value of one series of /metrics; 0.0 when it is not there."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", serving.page("/metrics").body, re.MULTILINE)
    return float(found[1]) if found else 0.0


def decisions(serving: Serving) -> float:
    lines = serving.page("/metrics").body.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("cloned_proxy_decisions_total{"))


def statuses(serving: Serving, url: str, count: int, headers: dict[str, str] | None = None) -> Counter[int]:
    """Asks `count` times from 8 threads."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: serving.get(url, headers=headers).status, range(count))
        return Counter(answers)


def restarted(serving: Serving, dead: int) -> bool:
    present = workers(serving)
    return dead not in present and len(present) == WORKERS and serving.page("/readyz").status == 200


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


@pytest.mark.alone
def test_a_killed_worker_takes_only_its_own_tunnels_and_is_back_within_a_second(
    workspace: Workspace, origin: Origin
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    victim = workers(serving)[1]
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        tunnels = list(pool.map(lambda _: stack.enter_context(tunnel(serving, origin)), range(60)))
        held = tunnels_of(victim, origin)
        assert 0 < held < 60
        counted, killed_at = decisions(serving), time.monotonic()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: restarted(serving, victim), what="the new worker")
        assert time.monotonic() - killed_at < A_SECOND
        assert decisions(serving) == counted
        assert value(serving, 'cloned_proxy_open_tunnels{tool="_anonymous"}') == 60 - held
        assert sum(asks_through(client) for client in tunnels) == 60 - held
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

    with ExitStack() as stack, ThreadPoolExecutor(40) as pool:
        stack.callback(stop.set)
        tunnels = list(pool.map(lambda _: stack.enter_context(tunnel(serving, origin)), range(40)))
        held = tunnels_of(victim, origin)
        assert 0 < held < 40
        asking = [pool.submit(ask_all_the_time, client) for client in tunnels]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: restarted(serving, victim), what="the new worker")
        stop.set()
        assert sum(future.result(30) for future in asking) == 40 - held


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
                outcomes[str(serving.get(origin.url(), timeout=5).status)] += 1
            except (OSError, HTTPException):
                outcomes["lost"] += 1

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask) for _ in range(6)]
        seen = 0.0
        for _ in range(3):
            os.kill(workers(serving)[0], signal.SIGKILL)
            deadline = time.monotonic() + 0.8
            while time.monotonic() < deadline:
                now = decisions(serving)
                assert now >= seen
                seen = now
        stop.set()
        for future in asking:
            future.result(20)
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


def test_requests_a_minute_hold_over_all_workers(
    workspace: Workspace, origin: Origin, credential: dict[str, str]
) -> None:
    workspace.write_policy(limited(origin, "requests_per_minute: 20"))
    serving = serve(workspace)
    assert statuses(serving, origin.url(), 60, credential) == {200: 20, 429: 40}
    refused = serving.get(origin.url(), headers=credential)
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert len(origin.seen) == 20


def test_a_killed_worker_does_not_refill_a_budget(
    workspace: Workspace, origin: Origin, credential: dict[str, str]
) -> None:
    workspace.write_policy(limited(origin, "requests_per_minute: 20"))
    serving = serve(workspace)
    assert statuses(serving, origin.url(), 20, credential) == {200: 20}
    for victim in workers(serving):
        os.kill(victim, signal.SIGKILL)
        eventually(lambda dead=victim: restarted(serving, dead), what="the new worker")  # type: ignore[misc]  # a default
    assert statuses(serving, origin.url(), 10, credential) == {429: 10}


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


def test_workers_end_when_their_supervisor_is_killed(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = serve(workspace)
    made = shared_directory(serving)
    orphans = children(serving.process.pid)
    assert len(orphans) == WORKERS + 1
    serving.signal(signal.SIGKILL)
    serving.wait()
    eventually(lambda: all(gone(pid) for pid in orphans), what="the end of the orphans")
    assert not made.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", serving.port), timeout=2)


def test_sigterm_drains_every_worker(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    present = children(serving.process.pid)
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        tunnels = list(pool.map(lambda _: stack.enter_context(tunnel(serving, origin)), range(24)))
        # As a service manager stops a service: everybody gets the signal, and the workers get it twice.
        for pid in (serving.process.pid, *workers(serving)):
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: refuses_connections(serving.port), what="the closed listener")
        eventually(lambda: serving.page("/readyz").status == 503, what="the end of readiness")
        assert all(asks_through(client) for client in tunnels)
        assert serving.process.poll() is None
    assert serving.wait() == 0
    assert all(gone(pid) for pid in present)
    assert "replaced" not in serving.log()


def test_a_second_signal_cuts_every_worker(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(tunnel(serving, origin))
        serving.signal(signal.SIGINT)
        eventually(lambda: refuses_connections(serving.port), what="the closed listener")
        serving.signal(signal.SIGINT)
        assert serving.wait(5) == 0


def test_the_interrupt_of_a_terminal_drains_although_every_process_gets_it(
    workspace: Workspace, origin: Origin
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = serve(workspace)
    with ExitStack() as stack:
        tunnels = [stack.enter_context(tunnel(serving, origin)) for _ in range(6)]
        for pid in (*children(serving.process.pid), serving.process.pid):
            os.kill(pid, signal.SIGINT)
        eventually(lambda: refuses_connections(serving.port), what="the closed listener")
        assert all(asks_through(client) for client in tunnels)
        assert serving.page("/healthz").status == 200
    assert serving.wait() == 0


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
    os.kill(workers(serving)[0], signal.SIGKILL)
    eventually(lambda: "worker 0 is not running" in serving.page("/readyz").body, what="the alarm")
    time.sleep(1.5)
    assert "worker 0 is not running" in serving.page("/readyz").body
    assert 2 <= serving.log().count("others can read the key") <= 4  # ever later, not in a tight loop
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


@pytest.mark.parametrize("taken", ["listen", "metrics"])
def test_a_port_in_use_is_one_line_and_starts_nothing(workspace: Workspace, origin: Origin, taken: str) -> None:
    workspace.write_policy(policy_text())
    place = f"127.0.0.1:{origin.port}"
    other = "metrics" if taken == "listen" else "listen"
    places = (f"--{taken}", place, f"--{other}", "127.0.0.1:0", "--control", "off")
    done = workspace.run("serve", "--workers", "2", *places)
    assert done.returncode == 1
    assert f"{place} is in use" in done.stderr
    assert done.stdout == ""


def test_a_bad_policy_at_the_start_is_one_line_and_no_worker(workspace: Workspace) -> None:
    workspace.write_policy("version: 1\nmystery: 1\n")
    done = workspace.run("serve", "--workers", "2", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off")
    assert done.returncode == 2
    assert "mystery" in done.stderr
    assert "worker" not in done.stderr


def test_no_count_is_left_in_memory_after_the_end(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = serve(workspace)
    made = shared_directory(serving)
    assert made.stat().st_mode & 0o777 == 0o700
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert not made.exists()


@pytest.mark.parametrize("count", ["0", "-1", "65", "many"])
def test_a_number_of_workers_that_is_none_is_bad_usage(workspace: Workspace, count: str) -> None:
    workspace.write_policy(policy_text())
    done = workspace.run("serve", "--workers", count)
    assert done.returncode == 2
    assert "--workers" in done.stderr


def shared_directory(serving: Serving) -> Path:
    """Where its workers count, as the memory map of one of them says."""
    found = re.search(r"(/\S*/cloned-proxy-\w+)/", Path(f"/proc/{workers(serving)[0]}/maps").read_text())
    assert found is not None
    return Path(found[1])


def refuses_connections(port: int) -> bool:
    return (
        subprocess.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"], capture_output=True, check=False
        ).returncode
        != 0
    )
