"""How long a warm `exec` takes, beside `docker run` with the same hardening, in the same run; and what twenty cost.

python -m bench.warm_exec        needs an engine and the images (`cloned-proxy image build`); part of `make bench`

Goals: with `serve` running, `exec … true` at most 0.6 of `docker run … true`, and at most 30 MB of host memory for each
of twenty at once (proportional set size, proc_pid_smaps_rollup(5); the engine's share is the same for both).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.sandbox import DOCKER_RUN, timed
from cloned_proxy.runner.link import is_served

ROUNDS = 15
TOGETHER = 20
_START_SECONDS = 60.0
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


def memory_mb(workspace: Path) -> float:
    """Of each of many at once, while all their tools run."""
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
        found = sum(_resident_kb(process.pid) for process in running) / TOGETHER / 1024
        for process in running:
            process.communicate()
    return found


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise SystemExit(f"the memory of process {pid} is not told")


def measure() -> dict[str, float]:
    """Medians, in turns, so that both see the same machine."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory) / "code" / ".cloned"
        workspace.mkdir(mode=0o700, parents=True)
        with serving(workspace):
            for _ in range(2):  # from the first one on slots are made ready
                subprocess.run(sandboxed(workspace, "true"), check=True)
            for _ in range(ROUNDS):
                ours.append(timed(lambda: subprocess.run(sandboxed(workspace, "true"), check=True)))
                theirs.append(timed(lambda: subprocess.run([*DOCKER_RUN, "true"], check=True)))
            memory = memory_mb(workspace)
    mine, other = statistics.median(ours), statistics.median(theirs)
    return {
        "warm_exec_ms": round(mine, 1),
        "warm_exec_ratio": round(mine / other, 2),
        "exec_memory_mb": round(memory, 1),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
