"""A wheel is made again, byte for byte: from a copy that lies elsewhere, with other dates, modes and settings."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.proxy.plane.library import NAME
from tests.packaging.conftest import ROOT
from tests.packaging.test_wheel_content import SHARED

pytestmark = pytest.mark.checkout

PARTS: Final = ("pyproject.toml", "README.md", "LICENSE", "packaging", "cloned_proxy", *SHARED)


def test_two_builds_are_equal(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a copy"
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(ROOT / part, copy / part)
    for number, path in enumerate(sorted(copy.rglob("*"))):
        os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
        path.chmod(path.stat().st_mode & 0o700)
    with zipfile.ZipFile(wheel) as archive:
        if (native := f"cloned_proxy/_plane/{NAME}") in archive.namelist():
            # Without cargo, which is on no PATH here, the build hook takes a library that is no older than its source.
            (copy / "plane").mkdir()
            shutil.copy(ROOT / "plane" / "Cargo.toml", copy / "plane")
            library = copy / "build" / "plane" / "release" / NAME
            library.parent.mkdir(parents=True)
            library.write_bytes(archive.read(native))
            library.chmod(0o700)  # as cargo makes it for somebody who shares nothing
    (copy / "bin").mkdir()
    elsewhere = os.environ | {
        "PATH": str(copy / "bin"), "TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7"
    }  # fmt: skip
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."]
    done = subprocess.run(
        command, cwd=copy, env=elsewhere, umask=0o077, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [again] = (copy / "out").glob("*.whl")
    assert again.name == wheel.name
    assert differences(wheel, again) == []
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(wheel.read_bytes()).hexdigest()


def differences(one: Path, other: Path) -> list[str]:
    """The files that are not the same, or not of the same date and mode; of no use to a machine, but to a person."""
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        about = [
            {each.filename: (each.CRC, each.date_time, each.external_attr) for each in archive.infolist()}
            for archive in (first, second)
        ]
    return sorted(name for name in about[0].keys() | about[1].keys() if about[0].get(name) != about[1].get(name))
