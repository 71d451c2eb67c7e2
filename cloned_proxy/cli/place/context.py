"""What every command starts from: the workspace, its settings and the policy, found the same way each time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.proxy_url import DEFAULT_PROXY, PROXY_VARIABLE, ProxyUrl
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.policy.model.model import Policy


def existing_workspace(directory: Path | None) -> Workspace:
    """The workspace, for commands that read. Raises CommandError for none, StoreError for somebody else's."""
    workspace = Workspace.find(directory)
    if not workspace.root.is_dir():
        from cloned_proxy.cli.place.place import nowhere
        from cloned_proxy.store.workspaces.serving import serving_now

        raise CommandError(nowhere(workspace, serving_now()))
    workspace.check_owner()
    return workspace


def policy_in(workspace: Workspace, flag: Path | None) -> tuple[Path, Policy]:
    """The policy file and what it says now. Raises PolicyError or StoreError, after saying what stays in force."""
    path = workspace.policy_path(flag)
    try:
        return path, _read_policy(path, workspace)
    except Exception as error:
        from cloned_proxy.policy.reading.parse import PolicyError

        in_force = last_version_in_force(workspace) if isinstance(error, (PolicyError, StoreError)) else None
        if in_force is not None:
            say(f"cloned-proxy: the file is not valid; a running proxy keeps version {in_force}, its last valid one")
        raise


def _read_policy(path: Path, workspace: Workspace) -> Policy:
    """What the file says now; from the cache where the same text was read before and its tests still hold."""
    from cloned_proxy.policy.deciding.self_test import failed_tests
    from cloned_proxy.store.files.policy_bytes import read_policy_bytes
    from cloned_proxy.store.policyfile.policy_cache import cached_policy, keep_policy

    raw, now = read_policy_bytes(path), time.time()
    policy = cached_policy(raw, str(path))
    if policy is not None and not failed_tests(policy, now):
        return policy
    from cloned_proxy.store.policyfile.policy_file import policy_from_bytes

    policy = policy_from_bytes(raw, source=str(path), now=now, presets=workspace.presets_for(path))
    keep_policy(raw, str(path), policy)
    return policy


def last_version_in_force(workspace: Workspace) -> str | None:
    """The version that the newest policy entry of the log names; None when none was ever in force."""
    if not workspace.state_db.exists():
        return None
    from cloned_proxy.store.audit.audit_log import AuditLog

    with AuditLog(workspace.state_db) as log:
        newest = next(log.entries(types=("policy",), last=1), None)
    return (newest.body["policy"] or None) if newest is not None else None


def proxy_of(workspace: Workspace) -> ProxyUrl:
    """The workspace's proxy, the override in the environment, and the one that serves. Raises CommandError."""
    override = os.environ.get(PROXY_VARIABLE) or None
    if override is not None:
        check_proxy_url(override, PROXY_VARIABLE)
    return ProxyUrl(workspace.config().egress_proxy, override, serving_url(workspace))


def wrong_proxy(workspace: Workspace, found: ProxyUrl) -> str:
    """Why the proxy that was set cannot be the one of this workspace, with the fix; "" when it may be."""
    from cloned_proxy.store.workspaces.serving import another_at

    if found.misses:
        return f"{found.serving} serves this workspace, and {found.effective} is named by {found.said_by}"
    if found.known is not None and (other := another_at(found.known, workspace.root)) is not None:
        return f"{found.known} serves {other.workspace}, and is named for {workspace.root} by {found.said_by}"
    return ""


def serving_url(workspace: Workspace) -> str | None:
    """Where clients on this machine reach the proxy that serves the workspace; None when none does."""
    from cloned_proxy.cli.place.live import live_proxy

    live = live_proxy(workspace)
    return live.url("proxy") if live is not None else None


def check_proxy_url(text: str, where: str) -> None:
    """Raises CommandError unless the text is the plain URL of an HTTP proxy."""
    from urllib.parse import urlsplit

    fix = f"write http://HOST:PORT such as {DEFAULT_PROXY}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise CommandError(f"{where}: {text!r} is not a proxy URL; {fix}") from error
    plain = (
        parts.path in ("", "/") and not parts.query and not parts.fragment and text.isprintable() and " " not in text
    )
    if parts.scheme != "http" or not parts.hostname or not port or not plain:
        raise CommandError(f"{where}: {text!r} is not a proxy URL; {fix}")
    if parts.username is not None or parts.password is not None:
        raise CommandError(f"{where}: a credential does not belong into this URL; `cloned-proxy token TOOL` mints one")
