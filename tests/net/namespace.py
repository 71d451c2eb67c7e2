"""Namespaces of our own: how to make them, whether this machine lets us, how to run a program in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_NEEDED: Final = ("unshare", "nsenter", "setpriv", "ip", "mount")


def _unshare() -> list[str]:
    as_someone_else = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_someone_else, "--net", "--mount"]


def why_not() -> str:
    """Why this machine cannot hold a fake internet; "" when it can."""
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    if missing:
        return f"missing programs: {', '.join(missing)} (apt-get install util-linux iproute2 mount)"
    trial = subprocess.run([*_unshare(), "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if trial.returncode:
        return f"no network namespaces here: {trial.stderr.strip()} (run as root, or allow user namespaces)"
    return ""


def start(command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
    """A process that has the new namespaces; they last as long as something runs in them."""
    return subprocess.Popen([*_unshare(), *command], **options)  # type: ignore[call-overload,no-any-return]


def enter(process: int, command: Sequence[str], directory: Path | None) -> list[str]:
    """The command line that runs `command` in the namespaces of a process, and that dies with the one who runs it.

    Nothing here forks, so the process id that `Popen` reports is that of `command` itself.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    inside = ["nsenter", "--target", str(process), *user, "--net", "--mount"]
    # Entering a mount namespace forgets the working directory.
    workdir = ["env", f"--chdir={directory or Path.cwd()}"]
    return [*inside, *workdir, "setpriv", "--pdeathsig", "KILL", *command]


def processes_in(namespace: str) -> list[int]:
    """Ids of the processes whose network namespace is `net:[…]`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns" / "net") == namespace:  # noqa: PTH115  the target is no path
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
