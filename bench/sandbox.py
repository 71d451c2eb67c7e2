"""How long a sandboxed call takes, beside `docker run` with the same hardening, in the same run.

python -m bench.sandbox          needs an engine, and builds the images where it has none; part of `make bench`

Goals: a call into a ready slot at most 0.6 of `docker run`, a listener within 10 ms, and four calls at once as much
faster than four in a row as four plain processes are on this machine at that moment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.alone import bring_images
from cloned_proxy.runner.docker.stream import Attached
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.share import share_path

ROUNDS = 15
LISTENER_MS = 10.0
BURN = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
DOCKER_RUN = [
    *("docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--init"),
    *("--security-opt", "no-new-privileges:true", "--security-opt", f"seccomp={share_path('sandbox', 'seccomp.json')}"),
    *("--pids-limit", "256", "--memory", "512m", "--memory-swap", "512m", "--cpus", "1"),
    *("--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=64m", "--ulimit", "nofile=1024", "--ulimit", "core=0"),
    PYTHON_IMAGE,
]


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def call(runner: DockerContainerRunner, *command: str) -> None:
    """One command in a sandbox."""

    def feed(stream: Attached) -> None:
        stream.end_input()

    job = Job(tool="bench.tool@v1", program=ToolProgram(PYTHON_IMAGE, command))
    _, outcome = runner.run(job, feed=feed, output=lambda _kind, _piece: None)
    if outcome.exit_code:
        raise SystemExit(f"{command} ended with {outcome.exit_code}")


def listener_times(runner: DockerContainerRunner) -> list[float]:
    """From nothing to a socket that listens inside the slot."""
    times = []
    with runner._pools.of("none").acquire() as slot:  # noqa: SLF001  the part under measurement
        for _ in range(50):
            began = time.perf_counter()
            sockets = slot.open_sockets()
            times.append((time.perf_counter() - began) * 1000)
            for sock in sockets:
                sock.close()
    return times


def plain() -> None:
    """The same work without a container: what the processors have to give."""
    subprocess.run(["sh", "-c", BURN], check=True)


def together(action: Callable[[], object]) -> float:
    """Milliseconds of four at once."""
    with ThreadPoolExecutor(4) as pool:
        return timed(lambda: list(pool.map(lambda _: action(), range(4))))


def main() -> int:
    """Prints one JSON object."""
    try:
        bring_images()
    except SandboxError as error:
        sys.stderr.write(f"sandboxes are not measured: {error}\n")
        return 0
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
    return 0


def measure() -> dict[str, float | int | bool]:
    """Every figure, and whether the goals are met."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory) / ".cloned"
        workspace.mkdir(mode=0o700)
        with proxy_for(workspace, lambda _: None), DockerContainerRunner(workspace=workspace, spare_slots=4) as runner:
            runner.warm_up(4)
            call(runner, "true")
            for _ in range(ROUNDS):
                ours.append(timed(lambda: call(runner, "true")))
                theirs.append(timed(lambda: subprocess.run([*DOCKER_RUN, "true"], check=True)))
            listener = listener_times(runner)

            def burn() -> None:
                call(runner, "sh", "-c", BURN)

            # In turns, so that both see the same machine.
            rounds = [(timed(burn), together(burn), timed(plain), together(plain)) for _ in range(3)]
    one, four, plain_one, plain_four = (min(times) for times in zip(*rounds, strict=True))
    mine, other = statistics.median(ours), statistics.median(theirs)
    speedup, possible = 4 * one / four, 4 * plain_one / plain_four
    return {
        "ready_slot_ms": round(mine, 1),
        "docker_run_ms": round(other, 1),
        "ratio": round(mine / other, 2),
        "listener_ms": round(statistics.median(listener), 2),
        "listener_max_ms": round(max(listener), 2),
        "one_call_ms": round(one, 1),
        "four_parallel_calls_ms": round(four, 1),
        "parallel_speedup": round(speedup, 2),
        "plain_processes_speedup": round(possible, 2),
        "cores": os.cpu_count() or 1,
        "goals_met": mine <= 0.6 * other and max(listener) <= LISTENER_MS and speedup >= 0.8 * possible,
    }


if __name__ == "__main__":
    sys.exit(main())
