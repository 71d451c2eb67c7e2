"""Fetching wheels with the user's own pip settings: index, mirror, proxy and certificates are theirs.

Only wheels are taken, so that no code of a package runs on this machine, and each file is what a hash says.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cloned_proxy.runner.values.errors import FetchError

_OLDEST_GLIBC: Final = 17
_SECONDS: Final = 900.0
_VERSION_SECONDS: Final = 60.0
_TAIL: Final = 3


def download(into: Path, *words: str, python: str, newest_glibc: int) -> None:
    """`pip download` for Linux with this machine's processor. Raises FetchError with pip's own last lines.

    `python` is the version that the wheels must fit, such as "3.13"; `newest_glibc` the minor version of the image's.
    """
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest_glibc, _OLDEST_GLIBC - 1, -1)]
    command = [*pip_command(), "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary", ":all:"]
    command += ["--python-version", python, *(f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}"))]
    command += ["--dest", str(into), *words]
    done = _run(command, _SECONDS)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FetchError("pip could not fetch it: " + "; ".join(line.removeprefix("ERROR: ") for line in said[-_TAIL:]))


def newest(name: str) -> str:
    """The newest version of a package, by the user's own index. Raises FetchError."""
    done = _run([*pip_command(), "index", "versions", "--disable-pip-version-check", "--no-input", name], _SECONDS)
    found = re.match(r"\S+ \(([^)]+)\)", done.stdout)
    if found is None:
        raise FetchError(f"pip knows no version of {name}; write one, as in NAME==1.2.3")
    return found[1]


@functools.cache
def pip_command() -> tuple[str, ...]:
    """The pip of this interpreter, the one that came with it, or the user's: all of them read the same settings."""
    found = importlib.util.find_spec("ensurepip")  # Debian's Python comes without
    bundled = sorted(Path(found.origin).parent.glob("_bundled/pip-*.whl")) if found and found.origin else []
    candidates = [
        (sys.executable, "-m", "pip"),
        *((sys.executable, f"{wheel}/pip") for wheel in bundled),
        ("python3", "-m", "pip"),
        ("pip3",),
    ]
    for candidate in candidates:
        try:
            done = _run([*candidate, "--version"], _VERSION_SECONDS)
        except (OSError, FetchError):
            continue
        if done.returncode == 0:
            return candidate
    raise FetchError("no pip on this machine: `sudo apt-get install python3-pip`")


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Runs outside of the current directory: `python -m` would import a `pip` that a tool planted in the project."""
    try:
        return subprocess.run(command, cwd=os.sep, capture_output=True, text=True, check=False, timeout=seconds)  # noqa: S603  pip's own
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"pip did not end within {seconds:.0f} s; is its index there?") from error
