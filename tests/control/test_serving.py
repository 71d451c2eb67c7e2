"""The control process beside the proxy: where it listens, that it dies alone, and that it ends with `serve`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.commands.serving.worker_processes import gone
from tests.cli.program import Origin, Serving, Workspace, eventually, literal, policy_text
from tests.control.support import Control, control_of, stream


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    path = tmp_path / "ws"
    secret = {"LLM_API_KEY": "canary-of-the-environment", "SOME_TOKEN": "canary-of-the-environment"}
    found = Workspace(path, {"PATH": os.environ["PATH"], "CLONED_WORKSPACE": str(path), **secret})
    yield found
    found.close()


def process_of(serving: Serving) -> int:
    """The control process: the child that was told of a lifeline."""
    pid = serving.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [int(child) for child in children if b"--lifeline" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found[0] if found else 0


def answers(control: Control) -> bool:
    try:
        return control.get("/pair").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_dies_alone_is_replaced_and_ends_with_serve(workspace: Workspace, origin: Origin, workers: str) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve("--control", "127.0.0.1:0", "--workers", workers)
    browser = control_of(workspace, serving).paired()
    first = process_of(serving)
    os.kill(first, signal.SIGKILL)
    assert serving.get(origin.url()).status == 200, "traffic must not notice"
    eventually(lambda: answers(browser), what="a new control process")
    assert process_of(serving) != first
    assert browser.get("/api/v1/session").status == 200, "a session outlives the process"
    last = process_of(serving)
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert not Path(f"/proc/{last}").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_serve_takes_it_along(workspace: Workspace, workers: str) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "127.0.0.1:0", "--workers", workers)
    eventually(lambda: answers(control_of(workspace, serving)), what="the control process")
    pid = process_of(serving)
    serving.signal(signal.SIGKILL)
    serving.wait()
    eventually(lambda: gone(pid), what="the end of the control process")


def test_tunnels_of_every_worker_are_listed_and_cut(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = workspace.serve("--control", "127.0.0.1:0", "--workers", "2")
    browser = control_of(workspace, serving).paired()
    place = f"127.0.0.1:{origin.port}"
    with ExitStack() as opened:
        clients: list[socket.socket] = []

        def both_have_some() -> bool:
            """Whoever is free accepts, at times one worker many in a row: more come until both have some."""
            some = [opened.enter_context(socket.create_connection(("127.0.0.1", serving.port), 10)) for _ in range(6)]
            for client in some:
                client.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            assert all(client.recv(4096).startswith(b"HTTP/1.1 200") for client in some)
            clients.extend(some)
            return {tunnel["worker"] for tunnel in browser.api("/tunnels")["items"]} == {0, 1}

        eventually(both_have_some, what="a tunnel in each worker")
        tunnels = browser.api("/tunnels")["items"]
        assert len(tunnels) == len(clients)
        assert browser.api("/overview")["serving"]["workers"] == 2
        for tunnel in tunnels:
            assert browser.post(f"/tunnels/{tunnel['id']}/cut", {}).status == 200
        assert [client for client in clients if not is_cut(client)] == []


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_an_open_stream_does_not_hold_up_the_end(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "127.0.0.1:0")
    browser = control_of(workspace, serving).paired()
    with stream(browser) as opened:
        serving.signal(signal.SIGTERM)
        assert serving.wait() == 0
        assert list(opened.events()) == []
    assert "Traceback" not in serving.log()


def test_it_gets_neither_keys_nor_secrets_of_the_environment(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "127.0.0.1:0")
    eventually(lambda: answers(control_of(workspace, serving)), what="the control process")
    environment = Path(f"/proc/{process_of(serving)}/environ").read_bytes()
    assert b"CLONED_WORKSPACE" in environment
    assert b"canary" not in environment


@pytest.mark.parametrize("place", ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "example.com:0", "127.0.0.1.example.com:0"])
def test_it_listens_on_loopback_only(workspace: Workspace, place: str) -> None:
    workspace.write_policy(policy_text())
    done = workspace.run("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", place)
    assert done.returncode == 2
    assert "loopback only" in done.stderr
    assert done.stdout == ""


def test_a_port_in_use_is_one_line_with_the_fix(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    place = f"127.0.0.1:{origin.port}"
    done = workspace.run("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", place)
    assert done.returncode == 1
    assert f"{place} is in use" in done.stderr
    assert "--control off" in done.stderr


def test_it_can_be_off(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "off")
    assert "control  off" in serving.banner
    assert process_of(serving) == 0


def test_it_listens_on_the_loopback_of_ipv6(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "[::1]:0")
    port = serving.control_port
    with socket.create_connection(("::1", port), timeout=90) as sock:
        sock.sendall(f"GET /pair HTTP/1.1\r\nHost: [::1]:{port}\r\nConnection: close\r\n\r\n".encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_rule_lets_a_tool_through_to_it(workspace: Workspace, workers: str) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--control", "127.0.0.1:0", "--workers", workers)
    place = f"127.0.0.1:{serving.control_port}"
    allowed = [f"{{host: 127.0.0.1, ports: [{serving.control_port}]}}"]
    allowed.append(f"{{host: localhost, ports: [{serving.control_port}], addresses: [private]}}")
    workspace.write_policy(policy_text(allow=allowed))
    # Each worker takes the new policy in by itself: until then it answers `host_not_allowed`, whoever was asked before.
    eventually(lambda: serving.get(f"http://{place}/pair").reason == "address_not_allowed", what="the refusal")
    by_name = f"http://localhost:{serving.control_port}/pair"
    eventually(lambda: serving.get(by_name).reason == "address_not_allowed", what="the refusal by name")
