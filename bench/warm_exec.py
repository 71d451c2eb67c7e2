"""How long a warm `exec` takes, beside `docker run` with the same hardening, in the same run; and what twenty cost.

python -m bench.warm_exec        needs an engine, and builds the images where it has none; part of `make bench`

Goals: with `serve` running, `exec … true` at most 0.6 of `docker run … true`, and at most 30 MB of host memory for each
of twenty at once (proportional set size, proc_pid_smaps_rollup(5); the engine's share is the same for both).

Warm is a command for which a container waits. That one is made behind the command before, so that the rounds leave time
for it; `exec_in_a_row_ratio` is without that time, and `cold_exec_ratio` without any process that was there before.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from bench.alone import bring_images
from bench.sandbox import DOCKER_RUN, timed
from cloned_proxy.cli.terminal.warm_wire import SOCKET
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.slots.link import is_served
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, workspace_mark

ROUNDS = 15
TOGETHER = 20
_START_SECONDS = 60.0
_SETTLE_SECONDS = 0.3
PROGRAM = [sys.executable, "-m", "cloned_proxy"]


@contextmanager
def serving(workspace: Path) -> Iterator[None]:
    """A `serve` of its own, on free ports."""
    words = ["serve", "--listen", "127.0.0.1:0", "--control", "off", "--metrics", "off", "--workspace", str(workspace)]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not is_served(workspace):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("serve did not start")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def sandboxed(workspace: Path, *command: str) -> list[str]:
    """The words of one `exec`."""
    return [*PROGRAM, "exec", "bench.tool@v1", "--workspace", str(workspace), "--", *command]


def until(true: Callable[[], bool]) -> None:
    """Waits for it."""
    deadline = time.monotonic() + _START_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("no process runs the commands")
        time.sleep(0.05)


def until_ready(workspace: Path) -> None:
    """Waits until a container waits for the next command, and whoever made it is done."""
    mark = workspace_mark(workspace)

    def waits() -> bool:
        return any(
            row["Names"][0].startswith("/cloned_ready_")
            and row["Labels"][WORKSPACE_LABEL] == mark
            and row["State"] == "running"
            for row in engine.labelled(WORKSPACE_LABEL)
        )

    with closing(Engine.connect()) as engine:
        until(waits)
    time.sleep(_SETTLE_SECONDS)


def without_warm(workspace: Path) -> float:
    """Milliseconds of a command that finds the slots, and no process that runs it."""
    place = workspace.joinpath(*SOCKET)
    aside = place.with_name("aside.sock")
    place.rename(aside)
    try:
        return timed(lambda: subprocess.run(sandboxed(workspace, "true"), check=True))
    finally:
        aside.rename(place)


def memory_mb(workspace: Path) -> float:
    """Memory of each of many at once, while all their tools run."""
    with ExitStack() as stack:
        running = []
        for _ in range(TOGETHER):
            words = sandboxed(workspace, "sh", "-c", "echo up; cat")
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            running.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in running:
            if process.stdout is None or process.stdout.readline() != b"up\n":
                raise SystemExit("a tool did not start")
        # With the process that runs it behind the one that was typed.
        known = {process.pid for process in running}
        found = sum(_resident_kb(pid) for pid in known | _warm_processes(workspace)) / TOGETHER / 1024
        for process in running:
            process.communicate()
    return found


def _warm_processes(workspace: Path) -> set[int]:
    """The process of a workspace that forks one for each command, with those that it forked."""
    words = b"cloned_proxy.cli.warm.server\0" + bytes(workspace)
    found = set()
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if words in place.read_bytes():
                found.add(int(place.parent.name))
    return found


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise SystemExit(f"the memory of process {pid} is not told")


def measure() -> dict[str, float]:
    """Medians, in turns, so that all see the same machine."""
    ours, theirs, cold = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory) / "code" / ".cloned"
        workspace.mkdir(mode=0o700, parents=True)

        def one() -> None:
            subprocess.run(sandboxed(workspace, "true"), check=True)

        with serving(workspace):
            one()  # from the first one on slots are made ready, and the process that runs them
            until(workspace.joinpath(*SOCKET).exists)
            one()
            for _ in range(ROUNDS):
                until_ready(workspace)
                ours.append(timed(one))
                until_ready(workspace)
                theirs.append(timed(lambda: subprocess.run([*DOCKER_RUN, "true"], check=True)))
            row = [timed(one) for _ in range(ROUNDS)]
            for _ in range(ROUNDS // 3):
                until_ready(workspace)
                cold.append(without_warm(workspace))
            memory = memory_mb(workspace)
    other = statistics.median(theirs)
    return {
        "warm_exec_ms": round(statistics.median(ours), 1),
        "warm_exec_ratio": round(statistics.median(ours) / other, 2),
        "exec_in_a_row_ratio": round(statistics.mean(row) / other, 2),
        "cold_exec_ratio": round(statistics.median(cold) / other, 2),
        "exec_memory_mb": round(memory, 1),
    }


def main() -> int:
    """Prints one JSON object; how busy the machine was, and what else there is to say, goes to stderr."""
    try:
        bring_images()
    except SandboxError as error:
        sys.stderr.write(f"warm exec is not measured: {error}\n")
        return 1
    busy = os.getloadavg()[0]
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
    sys.stderr.write(f"load of this machine: {busy:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
