"""Packages that tests need and the program does not: pinned in a lock file, downloaded once, kept outside git."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_TAGS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64", "any")
"""Wheels of the locks are for CPython 3.13 on x86-64."""


def cache(lock: Path) -> Path:
    """Made anew when the lock file changes."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloned-proxy-tests"
    return home / f"{lock.stem}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"


def unpacked(lock: Path, finish: Callable[[Path], None] = lambda _: None) -> Path:
    """The directory with the packages of a lock file in `site`; `finish` changes it before it is kept.

    Raises RuntimeError when they cannot be had.
    """
    place = cache(lock)
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        for old in place.parent.glob(f"{lock.stem}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=place.parent) as directory:
            made = Path(directory) / "made"
            _download(lock, Path(directory) / "wheels")
            for wheel in sorted((Path(directory) / "wheels").glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(made / "site")
            finish(made)
            for path in (made, *made.rglob("*")):  # its user in a container is nobody
                path.chmod(0o755 if path.is_dir() else 0o644)
            with contextlib.suppress(OSError):  # somebody else was faster, with the same content
                made.rename(place)
    return place


def needed(fetch: Callable[[], Path]) -> Path:
    """What `fetch` gives. When it raises RuntimeError, that fails the test in CI, and skips it elsewhere."""
    try:
        return fetch()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI cannot have the packages of this test: {error}")
        pytest.skip(f"the packages of this test cannot be had: {error}")


def _pips() -> Iterator[list[str]]:
    root = Path(__file__).parents[1]
    for python in ("python3", str(root / ".uv" / "bin" / "python")):
        if shutil.which(python):
            yield [python, "-m", "pip"]


def _download(lock: Path, wheels: Path) -> None:
    said = "no python3 with pip"
    for pip in _pips():
        command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        wanted = ["--only-binary", ":all:", "--python-version", "3.13", *(f"--platform={tag}" for tag in _TAGS)]
        done = subprocess.run(
            [*command, *wanted, "--dest", str(wheels), "--requirement", str(lock)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode == 0:
            return
        said = done.stderr.strip()[-500:]
    raise RuntimeError(said)
