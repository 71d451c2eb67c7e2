"""The second try of CI: who gets one, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
BUSY: Final = """
import pathlib

def test_that_fails_once():
    seen = pathlib.Path("seen")
    was_there = seen.exists()
    seen.touch()
    assert was_there
"""
BROKEN: Final = """
def test_that_always_fails():
    assert False
"""
CANARY: Final = "\n# What the canary got is in the file `seen`.\n"


@pytest.mark.parametrize(
    ("files", "most", "code", "said"),
    [
        ({"test_it.py": BUSY}, 3, 0, "UNSTEADY"),
        ({"test_it.py": BROKEN}, 3, 1, "1 failed"),
        ({"test_it.py": BUSY + CANARY}, 3, 1, "judges by a canary"),
        ({"test_it.py": BUSY, "test_other.py": BROKEN}, 1, 1, "2 tests failed; at most 1"),
    ],
    ids=["failed once", "fails always", "judges by a canary", "too many"],
)
def test_who_gets_a_second_try(files: dict[str, str], most: int, code: int, said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert _pytest(tmp_path).returncode == 1
    again = _pytest(
        tmp_path, "-p", "tests.second_try", "--last-failed", "--last-failed-no-failures", "none", SECOND_TRY=str(most)
    )
    assert said in again.stdout + again.stderr
    assert again.returncode == code


def _pytest(directory: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", ".", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
