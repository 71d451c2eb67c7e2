"""The real program as a replica: whom it believes, what the store has of its log, and what an export of it proves."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloned_proxy.fleet.audit.stream_form import entries_in
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.tokens.tool_tokens import mint_tool_token
from cloned_proxy.policy.callers.identity import Claims
from tests.cli.program import TOOL, Origin, Workspace, eventually, literal, policy_text
from tests.fleet.conftest import RedisServer, redis_directory, store  # noqa: F401  fixtures
from tests.fleet.minting import CLUSTER, RSA, SUBJECT, jwk, jwks, pod_claims, pod_header, sealed
from tests.fleet.replicas import put_into

FLEET: Final = "prod"


def private(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def join(workspace: Workspace, key: SigningKey, *, policy: str | None = None, **more: Any) -> None:
    workspace.path.mkdir(mode=0o700, exist_ok=True)
    settings = {"name": FLEET, "trust": [key.public], "replica": "r1"} | more
    private(workspace.path / "config.yaml", yaml.safe_dump({"fleet": settings, "policy": policy}).encode())


def records(workspace: Workspace, *arguments: str) -> list[dict[str, Any]]:
    done = workspace.run("log", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [found for line in done.stdout.splitlines() if (found := json.loads(line))["type"] == "decision"]


def take_out(server: RedisServer, seq: int) -> None:
    """One entry of the one log that is there."""
    with server.client() as client:
        (name,) = [found for found in client.keys("*:audit:*") if client.type(found) == b"stream"]
        entries = [entry for row in client.xrange(name) for entry in entries_in(*row)]
        client.delete(name)
        for entry in entries:
            if entry.seq != seq:
                client.xadd(name, {"hash": entry.hash, "body": entry.body}, f"{entry.seq}-0")


def test_a_replica_believes_its_fleet_and_ships_its_log(
    workspace: Workspace,
    origin: Origin,
    store: RedisServer,  # noqa: F811
) -> None:
    key = SigningKey.generate()
    pods = {"issuer": CLUSTER, "audience": "cloned-proxy", "jwks": "jwks.json", "map": {SUBJECT: TOOL}}
    join(workspace, key, store=store.url, issuers=[pods])
    private(workspace.path / "jwks.json", jwks(jwk(RSA, "k1")))
    policy = policy_text(anonymous="deny", tool_allow=[literal(origin)])
    workspace.write_policy(policy)
    put_into(store, policy.encode(), 1, key, fleet=FLEET)
    serving = workspace.serve()
    eventually(lambda: serving.page("/readyz").status == 200, what="the fleet's policy")
    with store.client() as client:  # the policy, limits, leases, requests and the log go over one link
        assert len(client.client_list(_type="pubsub")) == 1

    here = workspace.run("token", TOOL, "--json")
    assert "for this workspace's proxy alone" in here.stderr
    private(workspace.path / "fleet.key", key.pem())
    minted = workspace.json("token", TOOL)["token"]
    forger = SigningKey.from_pem((workspace.path / "fleet" / "replica.key").read_bytes(), "replica.key")
    forged = mint_tool_token(forger, Claims(TOOL, "r", time.time() + 60), fleet=FLEET, now=time.time())
    pod = sealed(pod_header(), pod_claims(exp=time.time() + 600, iat=time.time() - 5, nbf=time.time() - 5), RSA)
    shown = {"of the workspace": json.loads(here.stdout)["token"], "minted": minted, "pod": pod, "forged": forged}
    for name, token in shown.items():
        serving.get(origin.url(f"/{name.replace(' ', '-')}"), headers={"Proxy-Authorization": f"Bearer {token}"})
    eventually(lambda: len(records(workspace)) >= len(shown), what="the records, which come behind the answers")
    assert [(each["tool"], each["reason"] == "identity_invalid") for each in records(workspace)] == [
        (TOOL, False), (TOOL, False), (TOOL, False), (None, True),
    ]  # fmt: skip
    assert [path for _, path, _ in origin.seen] == ["/of-the-workspace", "/minted", "/pod"]
    assert 'cloned_proxy_fleet_tokens_refused_total{reason="key"} 1.0' in serving.page("/metrics").body

    ids = [each["id"] for each in records(workspace)]
    eventually(lambda: [each["id"] for each in records(workspace, "--fleet")] == ids, what="the log in the store")
    assert {each["replica"] for each in records(workspace, "--fleet")} == {"r1"}
    assert "r1  " in workspace.run("log", "--fleet", "--denied").stdout
    take_out(store, 2)
    lied = workspace.run("log", "--fleet")
    assert lied.returncode == 1
    assert "entry 2 is not in the store" in lied.stderr

    serving.signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    exported = workspace.run("audit", "export", "--signed")
    assert exported.returncode == 0, exported.stderr
    bundle = workspace.path.parent / "log.jsonl"
    bundle.write_text(exported.stdout)
    workspace.policy.unlink()
    (workspace.path / "state.db").unlink()
    public = exported.stderr.split("--key ")[1].rstrip("`\n")
    found = workspace.json("audit", "verify", str(bundle), "--key", public)
    assert (found["ok"], found["receipts"], found["replica"]) == (True, 1, "r1"), (
        "the receipt that is given at the stop"
    )
    bundle.write_text(exported.stdout.replace(ids[1], ids[1][::-1]))
    touched = workspace.run("audit", "verify", str(bundle), "--key", public)
    assert touched.returncode == 1
    assert "was changed" in touched.stderr


def test_what_is_said_without_a_fleet_or_a_store(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert "in no fleet" in workspace.call("log", "--fleet").stderr
    key = SigningKey.generate()
    join(workspace, key, policy="envelope.json")
    assert "`fleet: {store: …}` is not set" in workspace.call("log", "--fleet").stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        join(workspace, key, store=f"redis://127.0.0.1:{taken.getsockname()[1]}")
        away = workspace.call("log", "--fleet")
    assert away.returncode == 1
    assert "redis://127.0.0.1" in away.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "none.jsonl"), "cannot be read"),
        (("verify", "none.jsonl", "--key", "x"), "--key: write the `ed25519:…`"),
        (("verify", "--key", SigningKey(Ed25519PrivateKey.generate()).public), "--key is for an export"),
        (("export", "--since", "soon"), "--since"),
    ],
)
def test_bad_use_of_audit(workspace: Workspace, arguments: tuple[str, ...], said: str) -> None:
    workspace.write_policy(policy_text())
    done = workspace.call("audit", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_an_export_that_is_not_signed_says_what_it_is_worth(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert workspace.call("allow", "example.com").returncode == 0
    exported: subprocess.CompletedProcess[str] = workspace.call("audit", "export")
    assert not (workspace.path / "fleet").exists()
    bundle = workspace.path.parent / "log.jsonl"
    bundle.write_text(exported.stdout)
    done = workspace.call("audit", "verify", str(bundle))
    assert done.returncode == 0
    assert "no signature was checked" in done.stderr
