"""`shell`: a person's terminal in the sandbox, with the project and a home to come back to."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.runner.at_terminal import AtTerminal
from tests.runner.conftest import Serving, leftovers

pytestmark = pytest.mark.docker
SOMEBODY = 4711


@pytest.fixture
def project(module_serving: Serving, engine: Engine) -> Iterator[Path]:
    """A directory of somebody who is not root, below which nobody looks for git's own user."""
    project = module_serving.workspace.parent
    if os.geteuid() == 0:
        shutil.chown(project, SOMEBODY, SOMEBODY)
    yield project
    assert leftovers(engine, module_serving.workspace) == []


def test_the_project_is_writable_where_it_is_and_the_home_is_kept(project: Path) -> None:
    with AtTerminal(["shell"], cwd=project) as terminal:
        terminal.see(r"the rules of shell@v1 apply; it may reach nothing\r\n.* allow HOST --tool shell@v1`\r\n")
        terminal.see(r"\$ ")
        terminal.type("pwd > made; echo all: > Makefile; echo $0 $HOME; echo once > ~/kept; exit 3\r")
        terminal.see("bash /home/tool")
        terminal.see("Makefile")  # what the host may run later is told at the end
        assert terminal.ends() == 3
        assert terminal.modes() == terminal.before
        assert not re.search(rb"(?<!\r)\n", terminal.shown), "a line of ours came while the screen was the tool's"
    made = project / "made"
    assert made.read_text() == f"{project}\n"
    assert made.stat().st_uid == project.stat().st_uid
    with AtTerminal(["shell", "--", "sh", "-c", "cat ~/kept; exit 4"], cwd=project) as terminal:
        terminal.see("once")
        assert terminal.ends() == 4
