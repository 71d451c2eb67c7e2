"""`cloned-proxy` alone: what to do next, by how far somebody has come."""

from __future__ import annotations

import time
from typing import Final

from cloned_proxy.cli.place.live import live_proxy
from cloned_proxy.cli.show.entries import lines as entry_lines
from cloned_proxy.cli.show.examples import allowed_example
from cloned_proxy.cli.show.output import paint, put, short_path
from cloned_proxy.cli.show.retries import together
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.serving import serving_now
from cloned_proxy.store.workspaces.workspace import Workspace

_LOOKED_AT: Final = 100
_RECENT_SECONDS: Final = 86_400


def show_next_step() -> None:
    """Prints some lines, each with a command to type. Raises StoreError, PolicyError."""
    workspace = Workspace.find()
    where = short_path(str(workspace.root))
    if not workspace.root.is_dir():
        put("There is no workspace here: no policy, and nothing that runs by one.")
        _todo("cloned-proxy init", f"asks what you run here, and makes {where}")
        _todo("cloned-proxy serve", "makes it by the shipped policy, and starts the proxy")
        for other in serving_now()[:1]:
            _todo(f"cloned-proxy status --workspace {other.workspace}", f"what serves on {other.proxy}")
    elif (live := live_proxy(workspace)) is None:
        put(f"Nothing serves {where}.")
        _todo("cloned-proxy serve", "starts the proxy")
        _todo("cloned-proxy list", "the rules that it will follow")
    else:
        put(f"{live.url('proxy')} serves {where}: {paint('not ready' if live.problems else 'ready', 'bold')}.")
        if not _tell_denials(workspace):
            policy = load_policy(workspace.policy_path(), time.time(), workspace.presets)
            if (example := allowed_example(policy, live.url("proxy") or "", time.time())) is not None:
                _todo(example, "a call that passes")
            _todo("cloned-proxy exec TOOL -- COMMAND", "a command whose only way out is the proxy")
        _todo("cloned-proxy status", "all of it at a glance")
    _todo("cloned-proxy --help", "every command")


def _tell_denials(workspace: Workspace) -> bool:
    """The newest refused call with its fix; False when there is none of the last day."""
    with AuditLog(workspace.state_db) as audit:
        since = time.time() - _RECENT_SECONDS
        refused = list(together(audit.entries(denied=True, since=since, last=_LOOKED_AT)))
    if not refused:
        return False
    put("The newest call that it refused:")
    entry, times = refused[-1]
    for line in entry_lines(entry.body, times=times):
        put(f"  {line}")
    _todo("cloned-proxy log --denied", "each with its fix")
    return True


def _todo(command: str, what: str) -> None:
    put(f"  {paint(in_this_shell(command), 'bold')}  # {what}")
