"""What the proxy refused to a run, told to the person who started it: a client's own message names no reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.output import visible
from cloned_proxy.store.audit_log import AuditLog
from cloned_proxy.store.errors import StoreError

_RECORDED_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.01
_SHOWN: Final = 5
_ALL: Final = ("decision", "flow_end", "policy", "run", "probe")


def newest(state: Path) -> int:
    """The number of the log's last entry; 0 for an empty or unreadable log."""
    try:
        with AuditLog(state) as audit:
            return max((entry.seq for entry in audit.entries(types=_ALL, last=1)), default=0)
    except StoreError:
        return 0


def refusals(state: Path, run: str, *, after: int) -> list[str]:
    """One line for each destination that was refused to the run, with the command that would allow it.

    `after` is the last entry before the run began. The run's end is recorded behind its decisions, and both within
    50 ms: that entry is waited for.
    """
    deadline = time.monotonic() + _RECORDED_SECONDS
    lines: dict[str, None] = {}
    try:
        with AuditLog(state) as audit:
            ended = False
            while not ended and time.monotonic() < deadline:
                for entry in audit.entries(types=("decision", "run"), after=after):
                    after = entry.seq
                    if entry.body["run"] == run:
                        ended = entry.body["type"] == "run"
                        lines |= dict.fromkeys(_lines(entry.body))
                if not ended:
                    time.sleep(_POLL_SECONDS)
    except StoreError:
        return []  # the log is somebody else's to repair; the command has ended well without it
    found = list(lines)
    more = [f"cloned-proxy: and {len(found) - _SHOWN} more: `cloned-proxy log --denied`"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more


def _lines(body: dict[str, Any]) -> Iterator[str]:
    if body["type"] == "decision" and body["verdict"] == "deny":
        hint = f"; {body['hint']}" if body["hint"] else ""
        yield visible(f"cloned-proxy: refused {body['host']}:{body['port']} ({body['reason']}){hint}")
