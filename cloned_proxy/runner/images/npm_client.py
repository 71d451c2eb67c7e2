"""Fetching npm packages with the user's own npm settings, each tarball checked against the integrity of its lock.

No script of a package runs on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.images.toolchain import lay_out_node
from cloned_proxy.runner.values.errors import FetchError

_OLDEST: Final = 10
"""The first npm that takes packages for another system than its own (`--os`, `--cpu`, `--libc`)."""
_CPUS: Final = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_SECONDS: Final = 900.0
_TAIL: Final = 4


def fetch(project: Path, packages: Mapping[str, str], lock: Mapping[str, Any] | None) -> dict[str, Any]:
    """Puts the packages (name to exact version) into `project`/node_modules and returns the lock.

    With a lock exactly what it names is fetched. Raises FetchError.
    """
    project.mkdir()
    described = {"name": "tool", "version": "0.0.0", "private": True, "dependencies": dict(packages)}
    (project / "package.json").write_text(json.dumps(described))
    file = project / "package-lock.json"
    if lock is not None:
        file.write_text(json.dumps(lock))
    words = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--omit-lockfile-registry-resolved"]
    words += ["--os=linux", f"--cpu={_CPUS.get(platform.machine(), platform.machine())}", "--libc=glibc"]
    with _npm() as npm:
        done = _run([*npm, "install" if lock is None else "ci", *words], project)
    if done.returncode != 0:
        said = [line.partition("npm error ")[2] for line in done.stderr.splitlines() if line.startswith("npm error ")]
        said = [line for line in said if line and "complete log" not in line] or done.stderr.splitlines()
        raise FetchError(f"npm could not fetch it: {'; '.join(said[:_TAIL])}")
    made: dict[str, Any] = json.loads(file.read_text())
    check_lock(made)
    return made


def _run(command: list[str], project: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603  npm's own command, without a shell
            command, cwd=project, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"npm did not end within {_SECONDS:.0f} s; is its registry there?") from error


def newest(word: str) -> str:
    """The version that npm would install for `NAME` or `NAME@RANGE` now. Raises FetchError."""
    with _npm() as npm:
        done = _run([*npm, "view", word, "version", "--json"], Path(os.sep))
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    found = found[-1] if isinstance(found, list) and found else found  # a range has several, the newest is the last
    if not isinstance(found, str):
        raise FetchError(f"npm knows no version of {word}; write one, as in NAME@1.2.3")
    return found


def check_lock(lock: Mapping[str, Any]) -> None:
    """Raises FetchError for a package that nothing vouches for: one from git, from a URL or from a directory."""
    for place, entry in lock["packages"].items():
        if place and not entry.get("integrity") and not entry.get("inBundle"):
            name = place.rpartition("node_modules/")[2]
            raise FetchError(f"{name} has no integrity in the lock (it is not from a registry); choose another package")


def scripted(lock: Mapping[str, Any]) -> list[str]:
    """Names of the packages that have an install script, as npm marks them in its lock."""
    return sorted(
        {
            place.rpartition("node_modules/")[2]
            for place, entry in lock["packages"].items()
            if entry.get("hasInstallScript")
        }
    )


@contextlib.contextmanager
def _npm() -> Iterator[list[str]]:
    """The user's npm where it is new enough, else the one that comes into the images. Both read the user's settings."""
    own = shutil.which("npm")
    if own is not None and _major(own) >= _OLDEST:
        yield [own]
        return
    with tempfile.TemporaryDirectory(prefix="cloned-npm-") as directory:
        node, script = lay_out_node(Path(directory))
        yield [str(node), str(script)]


def _major(npm: str) -> int:
    try:
        done = subprocess.run([npm, "--version"], capture_output=True, text=True, check=False, timeout=60, cwd=os.sep)  # noqa: S603  the user's own
        return int(done.stdout.partition(".")[0])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0
