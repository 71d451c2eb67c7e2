"""A store behind TLS with a private CA, and exactly the ACL lines of docs/fleet.md: enough for all, and no more."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
import yaml

from cloned_proxy import request_egress
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.share import share_path
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from tests.cli.program import TOOL, Origin, Workspace, eventually
from tests.fleet.conftest import RedisServer, redis_directory  # noqa: F401  a fixture
from tests.free_port import free_port

NAMES = Names("acme")
USERS = ("replica", "approver", "publisher")
WAIT = 60.0
IN_CASE = {"rpop", "select", "wait"}
"""What is used with more than a hundred versions, with a database in the URL, and with followers of the store."""


def lines() -> list[list[str]]:
    """The words of each line of the page."""
    found = re.search(r"<!-- acl -->\n+```\n(.*?)```", share_path("docs", "fleet.md").read_text(), re.DOTALL)
    assert found is not None
    return [line.split() for line in found[1].splitlines()]


class Guarded(RedisServer):
    """TLS on a port, for `localhost` alone, and a unix socket for the test's own administrator."""

    def __init__(self, directory: Path) -> None:
        self.tls_port = free_port()
        authority = trustme.CA()
        self.ca = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        own = authority.issue_cert("localhost")
        own.private_key_pem.write_to_path(directory / "key.pem")
        own.cert_chain_pems[0].write_to_path(directory / "cert.pem")
        super().__init__(
            directory,
            *("--tls-port", str(self.tls_port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(directory / "cert.pem"), "--tls-key-file", str(directory / "key.pem")),
        )

    def tls_url(self, host: str = "localhost") -> str:
        return f"rediss://{host}:{self.tls_port}"

    def guard(self) -> redis.Redis:
        """Types the lines of the page, and returns an administrator, whom no line is about."""
        with self.client() as plain:
            plain.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
            for words in lines():
                plain.execute_command(*words)
        return redis.Redis(unix_socket_path=str(self.socket), username="admin", password="admin", protocol=2)

    def as_user(self, user: str) -> redis.Redis:
        return redis.Redis(
            host="localhost", port=self.tls_port, ssl=True, ssl_ca_certs=str(self.ca), protocol=2,
            username=user, password=f"{user.upper()}-PASSWORD",
        )  # fmt: skip


@pytest.fixture
def guarded(redis_directory: Path) -> Iterator[Guarded]:  # noqa: F811
    directory = redis_directory / "acl"
    directory.mkdir(exist_ok=True)
    server = Guarded(directory)
    server.start()
    yield server
    server.kill()


def beside(workspace: Workspace, name: str) -> Workspace:
    path = workspace.path.parent / name / "ws"
    path.parent.mkdir()
    return Workspace(path, workspace.environment | {"CLONED_WORKSPACE": str(path)})


def settle(workspace: Workspace, user: str, settings: dict[str, Any]) -> None:
    workspace.path.mkdir(mode=0o700, exist_ok=True)
    config = workspace.path / "config.yaml"
    config.write_text(yaml.safe_dump({"fleet": settings | {"auth": "${vault:fleet.store}"}}))
    config.chmod(0o600)
    done = workspace.call("vault", "set", "fleet.store", given=f"{user}:{user.upper()}-PASSWORD")
    assert done.returncode == 0, done.stderr


def works(workspace: Workspace, *words: str) -> str:
    done = workspace.call(*words)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout + done.stderr


def policy(origin: Origin, path: str) -> str:
    rule = f"host: 127.0.0.1, ports: [{origin.port}]"
    return (
        f"version: 1\nanonymous: global\nglobal: {{allow: [{{{rule}, paths: [{path}]}}]}}\n"
        f"tools: {{{TOOL}: {{limits: {{requests_per_minute: 60, concurrent: 4}}, "
        f"allow: [{{{rule}, paths: [/lease], max_uses: 1}}]}}}}\n"
    )


@pytest.mark.slow
def test_the_lines_of_the_page_are_enough_for_all_that_a_fleet_does(
    workspace: Workspace, origin: Origin, guarded: Guarded
) -> None:
    desk, one, two = beside(workspace, "desk"), beside(workspace, "one"), beside(workspace, "two")
    works(desk, "fleet", "init", "acme", "--store", guarded.tls_url())
    made = yaml.safe_load((desk.path / "config.yaml").read_text())["fleet"] | {"ca_files": [str(guarded.ca)]}
    settle(desk, "publisher", made)
    settle(two, "approver", made | {"replica": "two"})
    key = works(two, "approvals", "key").split()[0]
    settle(two, "approver", made | {"replica": "two", "approvers": [key]})
    settle(one, "replica", made | {"replica": "one", "approvers": [key]})
    try:
        with guarded.guard() as admin:
            _everything(desk, one, two, origin)
            denied = [(each["username"], each["object"], each["reason"]) for each in admin.acl_log()]
            assert denied == []
            streams = [name for name in admin.keys("cloned:{acme}:audit:*") if admin.type(name) == b"stream"]
            assert streams, "the logs were shipped"
            used = {name.removeprefix("cmdstat_").partition("|")[0] for name in admin.info("commandstats")}
            granted = {word[1:] for line in lines() for word in line if word.startswith("+")}
            assert granted - used == IN_CASE, "the page grants what nothing here has used"
    finally:
        one.close()
        two.close()


def _everything(desk: Workspace, one: Workspace, two: Workspace, origin: Origin) -> None:
    desk.write_policy(policy(origin, "/first"))
    works(desk, "fleet", "publish", "--reason", "the first")
    first, second = one.serve(), two.serve()
    eventually(lambda: {each.page("/readyz").status for each in (first, second)} == {200}, WAIT, "the policy")
    mine = {"Proxy-Authorization": f"Bearer {one.json('token', TOOL)['token']}"}

    def leased() -> bool:
        time.sleep(0.5)  # an impatient caller is refused for its refusals
        return first.get(origin.url("/lease"), headers=mine).status == 200

    eventually(leased, WAIT, "the lease")

    request_egress(["api.example.com"], tool_id=TOOL, reason="docs", workspace=one.path)
    eventually(lambda: two.json("approvals", "list"), WAIT, "the request on the other replica")
    works(two, "approvals", "approve", two.json("approvals", "list")[0]["id"])
    eventually(lambda: "cloned_proxy_fleet_grants 1.0" in first.page("/metrics").body, WAIT, "what was approved")

    desk.write_policy(policy(origin, "/second"))
    told = works(desk, "fleet", "publish", "--reason", "the second", "--wait", "60")
    assert "in force on 2 replicas" in told
    assert first.get(origin.url("/second")).status == 200
    works(desk, "fleet", "rollback", "1.1", "--reason", "back", "--wait", "60")
    works(desk, "fleet", "status", "--history")
    works(two, "fleet", "resume", "--reason", "as after a loss")
    eventually(lambda: "second" in desk.call("log", "--fleet").stdout, WAIT, "the log in the store")
    assert "second" in works(one, "log", "--fleet")
    for each in (desk, one, two):
        (line,) = [check for check in each.json("doctor")["checks"] if check["name"] == "fleet store"]
        assert line["status"] == "ok", line
    for serving in (first, second):
        serving.signal(signal.SIGTERM)
        assert serving.wait(60) == 0


@pytest.mark.parametrize("user", ["replica", "approver"])
@pytest.mark.parametrize(
    "words",
    [
        ("HSET", NAMES.policy, "epoch", "9"),
        ("DEL", NAMES.policy),
        ("HSET", NAMES.policy_history, "1.1", "x"),
        ("LPUSH", NAMES.policy_order, "9.9"),
        ("EVAL", "return redis.call('HSET', KEYS[1], 'epoch', '9')", "1", NAMES.policy),
        ("EVAL", "return redis.call('HSET', 'cloned:{acme}:policy', 'epoch', '9')", "0"),
        ("RENAME", NAMES.replicas, NAMES.policy),
        ("FLUSHALL",),
        ("CONFIG", "SET", "appendonly", "no"),
        ("ACL", "SETUSER", "replica", "+@all"),
        ("KEYS", "*"),
        ("GET", "another:application"),
        ("PUBLISH", "another:channel", "x"),
    ],
    ids=lambda words: f"{words[0]}-{len(words)}-{words[1][-14:] if len(words) > 1 else ''}",
)
def test_a_replica_can_write_no_policy_and_reach_nothing_else(
    locked: Guarded, user: str, words: tuple[str, ...]
) -> None:
    with (
        locked.as_user(user) as client,
        pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError)) as why,
    ):
        client.execute_command(*words)
    assert re.search(r"NOPERM|no permissions|can't access|ACL", str(why.value), re.IGNORECASE), why.value


@pytest.fixture(scope="module")
def locked(redis_directory: Path) -> Iterator[Guarded]:  # noqa: F811
    directory = redis_directory / "locked"
    directory.mkdir()
    server = Guarded(directory)
    server.start()
    server.guard().close()
    yield server
    server.kill()


def test_the_publisher_s_password_changes_no_log_and_nothing_else(locked: Guarded) -> None:
    with locked.as_user("publisher") as client:
        client.hset(NAMES.policy, "epoch", "1")  # it may; only a signature makes it count
        for words in (("XADD", NAMES.audit("x"), "*", "a", "b"), ("HSET", "cloned:{acme}:requests", "a", "b")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
    with pytest.raises(redis.AuthenticationError), locked.client() as nobody:
        nobody.ping()


class Password:
    """The vault, as the link sees it."""

    def value_of(self, name: str) -> str:
        assert name == "fleet.store"
        return "replica:REPLICA-PASSWORD"


def link(url: str, base: Path, *ca_files: Path) -> Link:
    settings = FleetSettings(
        name="acme",
        store=url,
        auth="${vault:fleet.store}",
        trust=["ed25519:" + "A" * 43 + "="],
        ca_files=[str(path) for path in ca_files],
    )
    return Link(settings, base=base, secrets=Password())


async def test_tls_is_of_the_named_ca_and_for_the_name_in_the_url(locked: Guarded, tmp_path: Path) -> None:
    async with link(locked.tls_url(), tmp_path, locked.ca) as good:
        assert await good.run(lambda client: client.ping())
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for url, ca_files, said in (
        (locked.tls_url("127.0.0.1"), [locked.ca], "IP address mismatch"),
        (locked.tls_url(), [other], "certificate verify failed"),
        (locked.tls_url(), [], "certificate verify failed"),
        (locked.tls_url().replace("rediss:", "redis:"), [], "no answer|losed|reset"),
    ):
        async with link(url, tmp_path, *ca_files) as bad:
            with pytest.raises(StoreAwayError, match=said) as why:
                await bad.run(lambda client: client.ping())
            assert "PASSWORD" not in str(why.value)
