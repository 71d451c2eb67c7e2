"""Short ways to run a command in the sandbox and see what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloned_proxy.runner.docker.stream import Attached, OutputStream
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.runner import DockerContainerRunner

TOOL = "demo.tool@v1"


@dataclass
class Seen:
    code: int
    out: str
    err: str
    run: str


def run(runner: DockerContainerRunner, *command: str, stdin: bytes = b"", tool: str = TOOL, **options: Any) -> Seen:
    out: dict[OutputStream, bytearray] = {OutputStream.STDOUT: bytearray(), OutputStream.STDERR: bytearray()}

    def feed(stream: Attached) -> None:
        stream.write(stdin)
        stream.end_input()

    options.setdefault("timeout", 30)
    job = Job(tool=tool, program=ToolProgram(PYTHON_IMAGE, command), **options)
    run_id, outcome = runner.run(job, feed=feed, output=lambda kind, piece: out[kind].extend(piece))
    return Seen(
        outcome.exit_code,
        out[OutputStream.STDOUT].decode(errors="replace"),
        out[OutputStream.STDERR].decode(errors="replace"),
        run_id,
    )


def sh(runner: DockerContainerRunner, script: str, **options: Any) -> Seen:
    return run(runner, "sh", "-c", script, **options)
