"""A workspace in which a tool asks and a person decides, with clocks that stand until they are moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cloned_proxy.store.approvals.approval import Approval, Proposal
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.settings.config import ApprovalSettings
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import DecisionEvent, Kind

TOOL = "demo.tool@v1"
OTHER = "other.tool@v1"
NOW = 1_700_000_000.0
ACTOR = "cli:tester"


class Scene:
    """A workspace with a policy, and clocks that stand until they are moved."""

    def __init__(self, root: Path, policy: str = "version: 1\n") -> None:
        self.workspace = Workspace(root)
        self.workspace.create()
        self.now = NOW
        self.up = 1000.0
        self.policy_file.write_text(policy)
        self.settings = ApprovalSettings()

    @property
    def policy_file(self) -> Path:
        return self.workspace.policy_file

    def service(self) -> ApprovalService:
        """A new one each time, as after a restart."""
        return ApprovalService(self.workspace, settings=self.settings, clock=lambda: self.now, uptime=lambda: self.up)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.up += seconds

    def ask(self, *hosts: str, **terms: Any) -> Approval:
        return self.service().ask(TOOL, asks(*hosts, **terms))

    def file(self) -> tuple[bytes, int, int]:
        info = self.policy_file.stat()
        return self.policy_file.read_bytes(), info.st_mtime_ns, info.st_ino

    def steps(self) -> list[tuple[str, str]]:
        with AuditLog(self.workspace.state_db) as log:
            assert log.verify().holds
            return [(entry.body["action"], entry.body["actor"]) for entry in log.entries(types=("approval",))]

    def denied(self, host: str, *, tool: str | None = TOOL, times: int = 1, **fields: Any) -> None:
        body = DecisionEvent(
            id="d", at=self.now, kind=Kind.TUNNEL, verdict="deny", reason="host_not_allowed", tool=tool, run=None,
            host=host, port=443, method="CONNECT", path="", rule="", policy="", hint="",
        )  # fmt: skip
        writer = AuditWriter(self.workspace.state_db, clock=lambda: self.now)  # as `serve` does, roll-up included
        for _ in range(times):
            writer.record(replace(body, **fields))
        writer.close()


def asks(*hosts: str, tool: str | None = TOOL, **terms: Any) -> Proposal:
    return Proposal(tuple(Entry(host) for host in hosts or ("api.example.com",)), tool, **terms)
