"""The walk of docs/first-hour.md on a real engine, in the fake internet: it happens as shown, and no command fails."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from demo.tour import marked, steps
from tests.docs.transcript import comparable
from tests.net.proxy_process import PROGRAM
from tests.net.world import World
from tests.runner.conftest import engine as engine  # noqa: PLC0414  a fixture of these tests, too
from tests.runner.conftest import images as images  # noqa: PLC0414
from tests.runner.conftest import leftovers
from tests.runner.conftest import world as world  # noqa: PLC0414

pytestmark = [
    pytest.mark.checkout,
    pytest.mark.docker,
    pytest.mark.net,
    pytest.mark.timeout(300, func_only=True),  # the engine and its images may take minutes to come
    pytest.mark.skipif(os.geteuid() != 0, reason="entering a namespace of the engine takes root"),
]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-hour.md"
START = "cloned-proxy serve"
"""The one step that goes on: it has a terminal of its own."""


@dataclass
class Terminal:
    """A shell of somebody who has just installed the program, inside the fake internet."""

    world: World
    home: Path
    project: Path
    serving: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(self.home),
        }

    def run(self, command: str) -> tuple[int, str]:
        """The exit code, and what a terminal shows."""
        done = self.world.run(["bash", "-c", f"{{ {command}\n}} 2>&1"], env=self.environment(), cwd=self.project)
        return done.returncode, done.stdout

    def serve(self) -> str:
        """Starts the proxy on the ports that the page shows, and returns its banner."""
        process = self.serving = self.world.spawn(
            [PROGRAM, "serve"], env=self.environment(), cwd=self.project, stdout=subprocess.PIPE
        )
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(line.decode())
            if line.startswith(b"denied"):
                break
        return "".join(lines)


@pytest.fixture
def terminal(world: World, images: Engine, tmp_path: Path) -> Iterator[Terminal]:
    home = tmp_path / "home"
    project = home / "my-project"
    project.mkdir(parents=True)
    home.chmod(0o700)
    world.reset()
    found = Terminal(world, home, project)
    yield found
    if found.serving is not None:
        found.serving.terminate()
        assert found.serving.wait(30) == 0
    assert leftovers(images, project / ".cloned") == []


def test_the_walk_is_what_a_terminal_shows(terminal: Terminal, images: Engine) -> None:
    shown = list(steps(marked(PAGE.read_text(), "walk")))
    assert len(shown) > 8, "the walk was not found"
    began = time.monotonic()
    for step in shown:
        code, output = (0, terminal.serve()) if step.command == START else terminal.run(step.command)
        output = output.replace(str(terminal.project), "~/my-project")
        assert code == 0, f"{step.command} failed:\n{output}"
        assert as_shown(output) == as_shown(step.output), step.command
    assert time.monotonic() - began < 600, "ten minutes, reading included"
    # What the page says was allowed arrived, and nothing else did.
    seen = {name for name in terminal.world.dns_names() if name.endswith(("example.com", "example.org", "example.net"))}
    assert seen == {"example.com", "example.org"}


def as_shown(text: str) -> list[str]:
    """What may differ beside what differs anyway: the engine's version, and how long things take on this machine."""
    text = re.sub(r"Docker \S+,", "Docker <version>,", text)
    text = re.sub(r"\b(?:\d+m )?\d+s\b|\b30m(?= )", "<span>", text)
    text = re.sub(r"after \d+ ms", "after <span>", text)
    return comparable(text)
