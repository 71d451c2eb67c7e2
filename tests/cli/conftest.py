"""A local origin to reach, and a workspace of its own for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import PROGRAM, Origin, Workspace


@pytest.fixture
def origin() -> Iterator[Origin]:
    server = Origin()
    yield server
    server.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    path = tmp_path / "ws"
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    kept["PATH"] = f"{PROGRAM.parent}{os.pathsep}{kept['PATH']}"  # as after `make install`; hints depend on it
    kept["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    found = Workspace(path, kept | {"CLONED_WORKSPACE": str(path), "XDG_RUNTIME_DIR": str(tmp_path)})
    yield found
    found.close()
