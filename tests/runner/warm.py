"""`exec` in a workspace where a container waits for it, and in the same one as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloned_proxy.cli.warm.child import WAITS
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import GoneError
from cloned_proxy.runner.values.spec import OWNER_LABEL, WORKSPACE_LABEL, workspace_mark
from tests.cli.program import eventually
from tests.runner.conftest import start_serving, write_policy
from tests.runner.jobs import TOOL

PROGRAM = [sys.executable, "-m", "cloned_proxy", "exec"]
TYPED = {"PYTHONPATH": "/nonexistent"}
"""In the environment of a command it makes another installation of it, for which no process is warm."""


@contextmanager
def served_workspace(engine: Engine, parent: Path, origin: int) -> Iterator[Path]:
    """A workspace that is served. At the end it is judged: with its proxy the warm processes and containers go."""
    workspace = parent / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    write_policy(workspace, origin)
    serving = start_serving(workspace)
    yield workspace
    serving.stop()
    eventually(lambda: not warm_processes(workspace) and not waiting(engine, workspace), 60, "the end of all of it")


def words(workspace: Path, *options: str) -> list[str]:
    return [*PROGRAM, "--workspace", str(workspace), *options]


def start(workspace: Path, *command: str, **more: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    return subprocess.Popen([*words(workspace, TOOL), "--", *command], **{**pipes, **more})


def inspected(engine: Engine, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The container of a command that says its name first."""
    assert process.stdout is not None
    return engine.inspect(process.stdout.readline().decode().strip())


def waiting(engine: Engine, workspace: Path) -> set[str]:
    """The id of each container that waits, or will."""
    mark = workspace_mark(workspace)
    return {
        str(row["Id"])
        for row in engine.labelled(WORKSPACE_LABEL)
        if row["Labels"][WORKSPACE_LABEL] == mark and row["Names"][0].startswith("/cloned_ready_")
    }


def warm_processes(workspace: Path) -> dict[int, int]:
    """Process to parent, of the one that forks and of those that it has forked."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
            if b"cloned_proxy.cli.warm.server\0" + bytes(workspace) in command:
                found[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def server(workspace: Path) -> int:
    found = warm_processes(workspace)
    return next((pid for pid, parent in found.items() if parent not in found), 0)


def warm_up(engine: Engine, workspace: Path, *options: str, cwd: Path | None = None) -> str:
    """Runs such a command until a container waits for the next one; returns its id."""
    before = waiting(engine, workspace)
    command = [*words(workspace, *options), "--", "true"]

    def one_more() -> bool:
        assert subprocess.run(command, check=False, timeout=60, cwd=cwd).returncode == 0
        return server(workspace) > 0

    eventually(one_more, 60, "the warm process")
    subprocess.run(command, check=True, timeout=60, cwd=cwd)
    eventually(lambda: bool(_settled(engine, workspace) - before), 60, "a container that waits")
    return min(_settled(engine, workspace) - before)


def _settled(engine: Engine, workspace: Path) -> set[str]:
    """Those whose process has said that it is ready."""
    ready = set()
    for container in waiting(engine, workspace):
        try:
            pid = engine.inspect(container)["Config"]["Labels"][OWNER_LABEL].split(".")[2]
            if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == WAITS:
                ready.add(container)
        except (GoneError, FileNotFoundError):
            continue
    return ready
