"""How `serve` starts the process that notifies people: a fresh interpreter that shares nothing with traffic."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from cloned_proxy.proxy.serving.beside import keep_running, python_module
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.workspaces.workspace import Workspace

_KEPT: Final = frozenset(
    {
        "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "NO_COLOR", "VIRTUAL_ENV",
        "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
        "CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR",
    }
)  # fmt: skip
"""What it needs to run, to find the desktop, to open the vault and to trust a receiver. The rest may hold keys."""
_KEPT_FAMILIES: Final = ("LC_", "PYTHON", "CLONED_")


def start_notifier(parts: AsyncExitStack, workspace: Workspace, policy_file: Path, log_format: str) -> None:
    """Keeps the process alive until `parts` is closed; nothing where nobody is to be notified."""
    if not workspace.config().notify.wanted:
        return

    def command(lifeline: int) -> list[str]:
        # What is denied while the process starts is news as well; what was before is not.
        with AuditLog(workspace.state_db) as log:
            after = log.newest()
        words = [*python_module("cloned_proxy.notify"), "--lifeline", str(lifeline), "--workspace", str(workspace.root)]
        return [*words, "--policy", str(policy_file), "--after", str(after), "--log-format", log_format]

    task = asyncio.create_task(keep_running("notifying", command, environ=environment(os.environ)))
    parts.push_async_callback(_end, task)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the process is given of this one's."""
    return {name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_FAMILIES)}


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
