"""How `serve --workers N` begins and ends: signals, drains, a supervisor that is killed, starts that fail."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.commands.serving.worker_processes import WORKERS, asks_through, children, gone, serve, tunnel, workers
from tests.cli.program import Origin, Serving, Workspace, eventually, literal, policy_text


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
    config = workspace.path / "config.yaml"
    config.write_text("proxy: {drain_seconds: 300}\n")
    config.chmod(0o600)
    serving = serve(workspace)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(tunnel(serving, origin))
        serving.signal(signal.SIGINT)
        eventually(lambda: refuses_connections(serving.port), what="the closed listener")
        serving.signal(signal.SIGINT)
        assert serving.wait() == 0


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
