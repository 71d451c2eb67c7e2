"""Fetching wheels with the user's own pip settings: index, mirror, proxy and certificates are theirs.

Only wheels are taken, so that no code of a package runs on this machine, and each file is what a hash says.
"""

from __future__ import annotations

import ensurepip
import functools
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from cloned_proxy.runner.errors import FetchError

_OLDEST_GLIBC: Final = 17
_SECONDS: Final = 900.0
_TAIL: Final = 3


def download(into: Path, *words: str, python: str, newest_glibc: int) -> None:
    """`pip download` for Linux with this machine's processor. Raises FetchError with pip's own last lines.

    `python` is the version that the wheels must fit, such as "3.13"; `newest_glibc` the minor version of the image's.
    """
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest_glibc, _OLDEST_GLIBC - 1, -1)]
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary", ":all:"]
    command += ["--python-version", python, *(f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}"))]
    command += ["--dest", str(into), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603  pip's own
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FetchError("pip could not fetch it: " + "; ".join(line.removeprefix("ERROR: ") for line in said[-_TAIL:]))


@functools.cache
def _pip() -> tuple[str, ...]:
    """The pip of this interpreter, the one that came with it, or the user's: all of them read the same settings."""
    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    candidates = [
        (sys.executable, "-m", "pip"),
        *((sys.executable, f"{wheel}/pip") for wheel in bundled),
        ("python3", "-m", "pip"),
        ("pip3",),
    ]
    for candidate in candidates:
        try:
            done = subprocess.run([*candidate, "--version"], capture_output=True, check=False, timeout=60)  # noqa: S603  as above
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    raise FetchError("no pip on this machine: `sudo apt-get install python3-pip`")
