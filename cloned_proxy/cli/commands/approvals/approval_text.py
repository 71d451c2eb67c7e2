"""Requests for other rules, as lines for people. What a tool wrote is shown as a quotation, and drives no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.show.errors import FAILED, CommandError
from cloned_proxy.cli.show.output import iso_time, paint, table, visible
from cloned_proxy.cli.show.tables import Cell, Row, when
from cloned_proxy.policy.terms.units import rounded_duration
from cloned_proxy.program_name import program_name
from cloned_proxy.store.approvals.approval import Approval
from cloned_proxy.store.approvals.approval_errors import ApprovalError, DecidedError
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.approvals.evidence import Evidence

HEADINGS: Final = ("ID", "FOR WHAT", "ASKED BY", "STATE", "HOW LONG", "TIMES", "TIME LEFT")
_STYLES: Final = {"pending": "yellow", "approved": "green", "rejected": "red", "expired": "dim"}
_SHOWN: Final = 10


def service_in(workspace: Path | None, policy: Path | None) -> ApprovalService:
    """Raises CommandError without a workspace, StoreError for settings that are not accepted."""
    from cloned_proxy.cli.show.warnings import warnings_to_stderr
    from cloned_proxy.fleet.approvals.approval_service import approvals_of

    warnings_to_stderr()
    return approvals_of(existing_workspace(workspace), policy)


@contextlib.contextmanager
def mending() -> Iterator[None]:
    """A request that cannot be decided becomes one line and an exit code: 1 when somebody was faster, else 2."""
    try:
        yield
    except DecidedError as error:
        raise CommandError(str(error), code=FAILED) from error
    except ApprovalError as error:
        raise CommandError(str(error)) from error


def row(approval: Approval) -> Row:
    """One line of `list`, under HEADINGS."""
    left = "-" if approval.state != "pending" else rounded_duration(approval.expires - time.time())
    return (
        approval.id,
        str(approval.proposal.addition),
        _with_replica(approval, approval.asker),
        Cell(approval.state, style=_STYLES[approval.state]),
        _terms(approval),
        str(approval.denied_count),
        left,
    )


def lines(approval: Approval, evidence: Evidence) -> list[str]:
    """Who, what and why first, the next step last."""
    shown = [
        f"{paint(approval.state, _STYLES[approval.state])}  {visible(str(approval.proposal.addition))}",
        f"asked by  {_asker(approval)}, {when(approval.created)}, {approval.denied_count} times",
        f"how long  {_terms(approval)}",
        f"it says   {visible(repr(approval.reason)) if approval.reason else '(no reason given)'}",
    ]
    shown += [f"mind      {visible(note)}" for note in evidence.notes]
    shown += _on_record(evidence)
    if approval.state != "pending":
        why = f": {visible(approval.decided_reason)}" if approval.decided_reason else ""
        decided = when(approval.decided_at) if approval.decided_at is not None else "-"
        shown.append(f"decided   {approval.decided_by}, {decided}{why}")
        return shown
    shown.append(f"policy    version {evidence.policy_version}")
    narrower = " [--narrowest]" if evidence.narrowest else ""
    shown.append(f"to do     {program_name()} approvals approve {approval.id}{narrower} [--for 30m]")
    shown.append(f"          {program_name()} approvals reject {approval.id}")
    shown.append(f"time left {rounded_duration(approval.expires - time.time())}")
    return shown


def _on_record(evidence: Evidence) -> list[str]:
    shown = []
    if evidence.matched:
        shown.append(f"it would have covered, since {iso_time(evidence.since)}:")
        rows = [(m.host, m.tool or "-", str(m.denied), str(m.passed)) for m in evidence.matched[:_SHOWN]]
        shown += [f"  {line}" for line in table(rows, ("HOST", "TOOL", "DENIED", "PASSED"))]
        more = len(evidence.matched) - len(rows) + evidence.matched_more
        shown += [f"  and {more} more"] if more else []
    else:
        shown.append(f"it would have covered nothing that was recorded since {iso_time(evidence.since)}")
    if evidence.wildcard_reach:
        shown.append(f"its wildcard reaches too: {visible(', '.join(evidence.wildcard_reach[:_SHOWN]))}")
    shown += [f"narrowest {visible(str(entry))}" for entry in evidence.narrowest]
    return shown


def _asker(approval: Approval) -> str:
    who = f"{approval.asker} (run {approval.run})" if approval.run else approval.asker
    return _with_replica(approval, who)


def _with_replica(approval: Approval, who: str) -> str:
    return f"{who} on {visible(approval.replica)}" if approval.replica else who


def _terms(approval: Approval) -> str:
    terms = [] if approval.for_seconds is None else [rounded_duration(approval.for_seconds)]
    terms += [] if approval.uses is None else [f"{approval.uses} uses"]
    return ", ".join(terms) or "for good"
