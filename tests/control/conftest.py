"""One `serve` with its control process for the tests of a module that change nothing of each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cli.program import Origin, Serving, Workspace, policy_text
from tests.control.support import Control, control_of


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    path = tmp_path_factory.mktemp("control") / "ws"
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    found = Workspace(path, kept | {"CLONED_WORKSPACE": str(path), "XDG_RUNTIME_DIR": str(path.parent)})
    found.write_policy(policy_text())
    yield found
    found.close()


@pytest.fixture(scope="module")
def serving(workspace: Workspace) -> Serving:
    return workspace.serve("--control", "127.0.0.1:0")


@pytest.fixture(scope="module")
def control(workspace: Workspace, serving: Serving) -> Control:
    """A browser that is not paired."""
    return control_of(workspace, serving)


@pytest.fixture(scope="module")
def browser(control: Control) -> Control:
    return control.paired("test browser")


@pytest.fixture(scope="module")
def client(control: Control) -> Control:
    return control.client("test client")


@pytest.fixture
def origin() -> Iterator[Origin]:
    server = Origin()
    yield server
    server.close()
