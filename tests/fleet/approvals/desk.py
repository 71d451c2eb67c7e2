"""A replica at which requests are made and decided, and what those of the tests have in common."""

from __future__ import annotations

import time
from pathlib import Path

from cloned_proxy.fleet.approvals.approval_service import approvals_of, approver_key_file
from cloned_proxy.fleet.approvals.decision import FleetDecision
from cloned_proxy.fleet.approvals.request_store import RequestNames
from cloned_proxy.fleet.approvals.requests import FleetRequests
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.enforce.granted_policies import GrantedPolicies
from cloned_proxy.store.approvals.approval import Approval, Proposal
from cloned_proxy.store.approvals.approval_mirror import ApprovalMirror
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.fleet.conftest import RedisServer
from tests.waiting import until as until  # noqa: PLC0414  who takes the rest from here takes it, too

FLEET = "acme"
TOOL = "demo@v1"
HOST = "api.example.com"
PUBLISHER, APPROVER = SigningKey.generate(), SigningKey.generate()
NAMES = RequestNames(FLEET)
POLICY = "version: 1\ntools:\n  demo@v1:\n    deny: [denied.example.com]\n"
TRUST = Trust([PUBLISHER.public, APPROVER.public])
DECISION = FleetDecision(
    fleet=FLEET, request="a-0123456789", about="0" * 64, verdict="approved", asker=TOOL, tool=TOOL, action="allow",
    entries=(Entry(HOST),), uses=None, decided=1000.0, ends=1060.0, by="device:phone", replica="one", reason="",
)  # fmt: skip


class Desk:
    """A replica with its workspace; its clocks can be set wrong."""

    def __init__(self, name: str, url: str, directory: Path, *, approver: SigningKey | None = APPROVER) -> None:
        self.workspace = Workspace(directory)
        self.workspace.create()
        self.workspace.policy_file.write_text(POLICY)
        keys = f"trust: ['{PUBLISHER.public}'], approvers: ['{APPROVER.public}'], replica: {name}"
        self.workspace.config_file.write_text(f"fleet: {{name: {FLEET}, store: '{url}', {keys}}}\n")
        key_file = approver_key_file(self.workspace)
        key_file.parent.mkdir(mode=0o700, exist_ok=True)
        if approver is not None:
            key_file.write_bytes(approver.pem())
            key_file.chmod(0o600)
        self.off, self.later = 0.0, 0.0
        """Seconds by which the host's clock is wrong, and that have passed."""
        fleet = self.workspace.config().fleet
        assert fleet is not None
        self.link = Link(fleet, base=directory)
        self.policies = GrantedPolicies(lambda: self.live)
        self.live = policy_from_bytes(POLICY.encode(), source="test", now=time.time())
        self.decided: list[FleetDecision] = []

        def change(rules: object) -> None:
            self.policies.granted = rules  # type: ignore[assignment]

        self.requests = FleetRequests(
            self.link,
            FLEET,
            name,
            trust=TRUST,
            mirror=ApprovalMirror(self.workspace.state_db, clock=self.clock, uptime=self.uptime),
            on_change=change,
            on_decision=self.decided.append,
            clock=self.clock,
            uptime=self.uptime,
        )

    def clock(self) -> float:
        return time.time() + self.off + self.later

    def uptime(self) -> float:
        return uptime() + self.later

    @property
    def service(self) -> ApprovalService:
        return approvals_of(self.workspace, clock=self.clock)

    def ask(self, host: str = HOST) -> Approval:
        return self.service.ask(TOOL, Proposal((Entry(host),), TOOL), origin="denied")

    def passes(self, host: str = HOST) -> bool:
        caller = Principal(TOOL, "run", CallerSource.LISTENER)
        return decide(self.policies.current, caller, Request(host, 443), self.clock()).passes

    def state(self, request: str) -> str:
        return {each.id: each.state for each in self.service.list()}.get(request, "")

    def decide(self, request: str, *, yes: bool = True, **terms: object) -> None:
        """As the control UI does it, in a thread."""
        if yes:
            self.service.approve(request, actor="device:phone", **terms)  # type: ignore[arg-type]
        else:
            self.service.reject(request, actor="device:phone")


def offer(store: RedisServer, request: str, envelope: bytes = b"", raw: bytes = b"{}", *, seconds: int = 600) -> None:
    """As somebody does who can write into the store."""
    with store.client() as client:
        client.hset(NAMES.requests, request, raw)
        client.zadd(NAMES.ends, {request: int((time.time() + seconds) * 1000)})
        if envelope:
            client.hset(NAMES.decisions, request, envelope)
