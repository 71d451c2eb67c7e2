"""A fleet of real processes on a real store: published, in force, cut, forged in vain. Bytes at the origin judge."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloned_proxy.fleet.signed.keys import SigningKey
from tests.cli.program import Origin, Serving, Workspace, eventually, literal, policy_text
from tests.fleet.conftest import RedisServer
from tests.fleet.replicas import put_into


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("r"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def replica(workspace: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    path = tmp_path / "replica" / "ws"
    path.parent.mkdir()
    made = Workspace(path, workspace.environment | {"CLONED_WORKSPACE": str(path)})
    yield made
    made.close()


def found(publisher: Workspace, store: RedisServer, *replicas: Workspace) -> str:
    """Makes the fleet, and gives every replica what `init` has printed. Returns that."""
    done = publisher.call("fleet", "init", "acme", "--store", store.url)
    assert done.returncode == 0, done.stderr
    for each in replicas:
        each.path.mkdir(mode=0o700)
        each.path.joinpath("config.yaml").write_text(done.stdout)
    return done.stdout


def publish(publisher: Workspace, *allow: str) -> str:
    publisher.write_policy(policy_text(allow=allow))
    done = publisher.call("fleet", "publish", "--reason", "test", "--wait", "60")
    assert done.returncode == 0, done.stderr
    return done.stdout


def tunnel(serving: Serving, origin: Origin) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", serving.port), timeout=90)
    place = f"127.0.0.1:{origin.port}"
    connection.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    got = b""
    while b"reached" not in got:
        piece = connection.recv(65_536)
        assert piece, got
        got += piece
    return connection


def refused(serving: Serving, origin: Origin) -> bool:
    """A request that was under way when its rule went is cut without an answer; the next one is refused with one."""
    try:
        return serving.get(origin.url()).status == 403
    except ConnectionResetError:
        return False


def test_what_is_published_is_in_force_on_all_and_what_is_taken_away_is_cut(
    workspace: Workspace, replica: Workspace, store: RedisServer, origin: Origin
) -> None:
    found(workspace, store, replica)
    one, many = workspace.serve(), replica.serve("--workers", "2")
    assert one.get(origin.url()).reason == "policy_unavailable"
    assert many.page("/readyz").status == 503
    with store.client() as client:
        eventually(lambda: client.hlen("cloned:{acme}:replicas") == 3, what="the roster")
    rule = literal(origin, protocols="[tcp]")
    assert re.search(r"version 1\.1 is published, and in force on 2 replicas after \d+ ms", publish(workspace, rule))
    open_now = [tunnel(serving, origin) for serving in (one, *[many] * 6)]
    eventually(lambda: many.page("/readyz").status == 200, what="the policy in both workers")
    seen = len(origin.seen)
    publish(workspace)
    for connection in open_now:
        connection.settimeout(60)  # the contract's second is the bench's to judge
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
    assert one.get(origin.url()).reason == "ip_literal"
    assert many.get(origin.url()).reason == "ip_literal"
    assert len(origin.seen) == seen
    status = workspace.json("fleet", "status")
    assert [(each["version"], each["denying"]) for each in status["replicas"]] == [("1.2", False)] * 2
    assert sorted(each["workers"] for each in status["replicas"]) == [1, 2]
    done = workspace.call("fleet", "rollback", "1.1", "--reason", "undo", "--wait", "60")
    assert "version 1.3 is published" in done.stdout
    assert one.get(origin.url()).body == "reached\n"


def test_who_owns_the_store_opens_nothing(workspace: Workspace, store: RedisServer, origin: Origin) -> None:
    found(workspace, store)
    serving = workspace.serve()
    publish(workspace, "a.example")
    # Whoever publishes waits for the replicas that are on the roster, and this one may have come later.
    eventually(lambda: serving.get(origin.url()).status == 403, what="the first policy")
    forged = policy_text(allow=[literal(origin)]).encode()
    put_into(store, forged, 2, SigningKey.generate())
    counted = 'cloned_proxy_fleet_refused_total{reason="signature"} 1.0'
    eventually(lambda: counted in serving.page("/metrics").body, what="the refusal")
    assert serving.get(origin.url()).status == 403
    assert origin.seen == []
    publish(workspace, literal(origin))  # the same words, signed
    assert serving.get(origin.url()).body == "reached\n"
    assert len(origin.seen) == 1


def test_an_edit_on_a_replica_says_where_to_publish(workspace: Workspace, store: RedisServer) -> None:
    found(workspace, store)
    workspace.serve()
    publish(workspace, "a.example")
    eventually(lambda: "a.example" in workspace.call("list").stdout, what="the copy that people look at")
    done = workspace.call("allow", "b.example")
    assert done.returncode != 0
    assert "fleet publish" in done.stderr


def test_a_policy_that_fails_its_tests_is_not_published(workspace: Workspace, store: RedisServer) -> None:
    found(workspace, store)
    workspace.write_policy(policy_text() + "tests:\n  - {allow: ['https://a.example/']}\n")
    done = workspace.call("fleet", "publish", "--reason", "test")
    assert done.returncode != 0
    assert "tests[0]" in done.stderr
    with store.client() as client:
        assert client.keys("*") == []


def test_the_key_is_rotated_without_a_moment_of_distrust(
    workspace: Workspace, replica: Workspace, store: RedisServer
) -> None:
    section = found(workspace, store, replica)
    old = re.search(r"ed25519:[^']+", section)
    assert old is not None
    publish(workspace, "a.example")
    serving = replica.serve()
    with store.client() as client:  # it serves before it has said so
        eventually(lambda: client.hlen("cloned:{acme}:replicas") == 1, what="the roster")
    done = workspace.call("fleet", "rotate")
    new = done.stdout.strip()
    assert new.startswith("ed25519:")
    assert "not trusted yet by" in done.stderr
    assert workspace.call("fleet", "rotate").stdout.strip() == new
    early = workspace.call("fleet", "rotate", "--finish")
    assert early.returncode != 0
    both = section.replace(f"['{old[0]}']", f"['{old[0]}', '{new}']")
    workspace.path.joinpath("config.yaml").write_text(both)
    lacking = workspace.call("fleet", "rotate", "--finish")
    assert lacking.returncode == 1
    assert "would accept nothing more" in lacking.stderr
    publish(workspace, "b.example")  # signed by both: who trusts the old one alone has it, too
    serving.process.terminate()
    serving.wait(30)
    replica.path.joinpath("config.yaml").write_text(section.replace(old[0], new))
    again = replica.serve()
    eventually(lambda: again.page("/readyz").status == 200, what="the policy by the new key")
    with store.client() as client:
        eventually(lambda: client.hlen("cloned:{acme}:replicas") == 1, what="the roster")
    finished = workspace.call("fleet", "rotate", "--finish")
    assert finished.returncode == 0, finished.stderr
    publish(workspace, "c.example")
    eventually(lambda: "c.example" in replica.call("list").stdout, what="the copy that people look at")


def test_without_a_store_the_envelope_is_a_file(workspace: Workspace, replica: Workspace, origin: Origin) -> None:
    done = workspace.call("fleet", "init", "acme")
    workspace.path.joinpath("config.yaml").write_text(done.stdout)
    replica.path.mkdir(mode=0o700)
    replica.path.joinpath("config.yaml").write_text(done.stdout)
    mounted = replica.path / "policy.dsse.json"

    def write(name: str, *allow: str) -> None:
        workspace.write_policy(policy_text(allow=allow))
        made = replica.path / name
        out = workspace.call("fleet", "publish", str(workspace.policy), "--reason", "test", "--output", str(made))
        assert out.returncode == 0, out.stderr
        link = replica.path / "next"  # as Kubernetes swaps a ConfigMap
        link.symlink_to(made)
        link.rename(mounted)

    write("one.json", literal(origin))
    serving = replica.serve()
    assert serving.get(origin.url()).body == "reached\n"
    write("two.json")
    eventually(lambda: refused(serving, origin), what="the second version")
    mounted.unlink()
    mounted.symlink_to(replica.path / "one.json")
    counted = 'cloned_proxy_fleet_refused_total{reason="rollback"} 1.0'
    eventually(lambda: counted in serving.page("/metrics").body, what="the refusal of the older one")
    seen = len(origin.seen)
    assert serving.get(origin.url()).status == 403
    assert len(origin.seen) == seen
