"""The check of `doctor` that asks git: keys in a repository are everybody's who can read it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

from cloned_proxy.cli.commands.doctor.checks import Check
from cloned_proxy.store.workspaces.workspace import Workspace

_SECONDS: Final = 10


def git_check(workspace: Workspace) -> Check | None:
    """None where the workspace lies in no repository, or there is no git."""
    secret = (workspace.identity_key, workspace.vault_key, workspace.vault_file, workspace.state_db)
    names = [path.name for path in secret]
    tracked = _git(workspace, "ls-files", "-z", "--", *names, "ca")
    if tracked is None:
        return None
    if found := sorted(filter(None, tracked.split("\0"))):
        detail = f"git tracks {', '.join(found)} of {workspace.root}: who can read the repository has them"
        fix = f"git -C {workspace.root} rm --cached -r {' '.join(found)}; and make new ones: the history keeps these"
        return Check("git", "warn", detail, fix)
    ignored = _git(workspace, "check-ignore", "--", *names) or ""
    if len(ignored.splitlines()) < len(names):
        fix = f"put a line `*` into {workspace.git_ignore}, or start `cloned-proxy serve`, which does"
        return Check("git", "warn", f"git does not ignore {workspace.root}: `git add` takes its keys", fix)
    return Check("git", "ok", "the workspace is ignored, keys and all")


def _git(workspace: Workspace, *words: str) -> str | None:
    """What it prints; None when it cannot tell (no repository, no git, a repository that it does not trust)."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  git itself, with words of our own
            # What the repository's own settings would have run is not run: a tool may have written them.
            [program, "-C", str(workspace.root), "-c", "core.fsmonitor=false", *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    # 1 of `check-ignore`: none of them is.
    return done.stdout if done.returncode in (0, 1) else None
