"""Two real replicas on a real store, a real Prometheus that scrapes both, and one of each thing the dashboard shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from cloned_proxy import request_egress
from cloned_proxy.fleet.signed.keys import SigningKey
from tests.cli.program import TOOL, Origin, Serving, Workspace, eventually
from tests.dashboards.server import Prometheus, running
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import begin_count
from tests.fleet.replicas import put_into

FLEET = "acme"
NAMES = ("one", "two")
USES = 2
PER_MINUTE = 600
WAIT = 60.0


@dataclass
class FleetScene:
    workspaces: list[Workspace]
    servings: list[Serving]
    prometheus: Prometheus
    store: RedisServer
    origin: Origin
    key: SigningKey
    token: str

    @property
    def instances(self) -> list[str]:
        """What Prometheus calls the replicas."""
        return [f"127.0.0.1:{serving.metrics_port}" for serving in self.servings]

    def publish(self, version: int, key: SigningKey | None = None) -> None:
        """Whoever has the store's password can do that; only the fleet's key makes it count."""
        put_into(self.store, policy(self.origin), version, key or self.key, fleet=FLEET)

    def in_force(self, version: int) -> None:
        self.measured(rf"cloned_proxy_fleet_policy_version {version}\.0")

    def measured(self, pattern: str) -> None:
        """Waits until both replicas have a line in their metrics that begins so."""

        def said() -> bool:
            pages = [serving.page("/metrics").body for serving in self.servings]
            return all(re.search(f"^{pattern}", page, re.MULTILINE) for page in pages)

        eventually(said, WAIT, pattern)

    def round(self) -> None:
        """Each replica: 3 allowed, 2 denied, and one with a token that somebody forged."""
        for serving in self.servings:
            for _ in range(3):
                assert serving.get(self.origin.url("/plain")).status == 200
            for _ in range(2):
                assert serving.get("http://exfil.example/").status == 403
            serving.get(self.origin.url("/plain"), headers={"Proxy-Authorization": "Bearer no.good.token"})

    def once(self) -> None:
        """A lease that is used up, an envelope of a stranger, a request that a person approves on the other one."""
        one, other = self.servings[0], self.workspaces[1]
        mine = {"Proxy-Authorization": f"Bearer {self.token}"}
        # Until a store that has just begun gives shares and counts uses, both are refused.
        eventually(lambda: one.get(self.origin.url("/lease"), headers=mine).status == 200, WAIT, "a share")
        statuses = [one.get(self.origin.url("/lease"), headers=mine).status for _ in range(USES)]
        assert statuses == [200] * (USES - 1) + [403], statuses
        self.publish(3, SigningKey.generate())
        self.measured(r'cloned_proxy_fleet_refused_total{reason="signature"} [1-9]')  # again with each later look
        request_egress(["api.example.com"], tool_id=TOOL, reason="docs", workspace=self.workspaces[0].path)
        eventually(lambda: other.json("approvals", "list"), WAIT, "the request on the other replica")
        (waiting,) = other.json("approvals", "list")
        done = other.run("approvals", "approve", waiting["id"])
        assert done.returncode == 0, done.stderr


def policy(origin: Origin) -> bytes:
    rule = f"host: 127.0.0.1, ports: [{origin.port}]"
    return (
        "version: 1\nanonymous: global\n"
        f"global:\n  allow:\n    - {{{rule}, paths: [/plain]}}\n"
        f"tools:\n  {TOOL}:\n    limits: {{requests_per_minute: {PER_MINUTE}}}\n"
        f"    allow:\n      - {{{rule}, paths: [/lease], max_uses: {USES}}}\n"
    ).encode()


@contextmanager
def playing(first: Workspace, directory: Path, *arguments: str) -> Iterator[FleetScene]:
    """Both replicas have version 2 in force and were scraped once; what happens then is the caller's."""
    with ExitStack() as parts:
        key, origin = SigningKey.generate(), Origin()
        parts.callback(origin.close)
        place = directory / "r"  # short: the path of a unix socket has an end
        place.mkdir()
        store = RedisServer(place)
        store.start()
        parts.callback(store.kill)
        workspaces = [first, *(_beside(first, directory / name / "ws") for name in NAMES[1:])]
        for workspace, name in zip(workspaces, NAMES, strict=True):
            _join(workspace, name, store, key)
        for workspace in workspaces:
            parts.callback(workspace.close)
        servings = [workspace.serve(*arguments) for workspace in workspaces]
        ports = [serving.metrics_port for serving in servings]
        prometheus = parts.enter_context(running(directory, {"cloned-proxy": ports}))
        token = workspaces[0].json("token", TOOL)["token"]
        scene = FleetScene(workspaces, servings, prometheus, store, origin, key, token)
        for version in (1, 2):
            scene.publish(version)
            scene.in_force(version)
        # `fleet publish` begins the count of used leases with a first policy; the scene writes that past it.
        assert begin_count(store.url, key, fleet=FLEET)
        prometheus.scraped({"cloned-proxy"})
        yield scene


def _beside(first: Workspace, path: Path) -> Workspace:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Workspace(path, first.environment | {"CLONED_WORKSPACE": str(path)})


def _join(workspace: Workspace, name: str, store: RedisServer, key: SigningKey) -> None:
    for place in (workspace.path, workspace.path / "fleet"):
        place.mkdir(mode=0o700)
    settings = {"name": FLEET, "store": store.url, "trust": [key.public], "replica": name}
    for file, content in (
        ("config.yaml", yaml.safe_dump({"fleet": settings}).encode()),
        ("fleet/approver.key", key.pem()),
    ):
        (workspace.path / file).write_bytes(content)
        (workspace.path / file).chmod(0o600)
