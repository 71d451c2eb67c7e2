"""Where broken builds are born: a process that has loaded the product once and forks for each build.

Loading the product takes seconds, forking milliseconds, and there are dozens of builds. `python -m tests.net.nursery`
reads one JSON object a line, `{"arguments", "log", "directory"}`, forks, and answers with the child's process id.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from subprocess import Popen
from typing import IO, Final

_POLL_SECONDS: Final = 0.01
_PR_SET_PDEATHSIG: Final = 1


class Nursling:
    """A forked build, with as much of Popen as a proxy process needs. Not our child, so it leaves no exit status."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return 0
        return 0 if state in "ZX" else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 60) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} does not end")
            time.sleep(_POLL_SECONDS)
        return 0


def order(nursery: Popen[bytes], arguments: list[str], log: Path, directory: Path) -> Nursling:
    """Has a build made: `arguments` are those of `tests.net.broken_builds`."""
    sent, answers = _pipes(nursery)
    sent.write(json.dumps({"arguments": arguments, "log": str(log), "directory": str(directory)}).encode() + b"\n")
    sent.flush()
    return Nursling(int(answers.readline()))


def _pipes(nursery: Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if nursery.stdin is None or nursery.stdout is None:
        raise ValueError("a nursery is talked to through pipes")
    return nursery.stdin, nursery.stdout


def _be_a_build(arguments: list[str], log: str, directory: str) -> None:
    from tests.net import broken_builds  # noqa: PLC0415  loaded by `main`, long before

    try:
        # As long as the nursery lives, and no longer (prctl(2)).
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(directory)
        sys.argv = ["tests.net.broken_builds", *arguments]
        broken_builds.main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:  # noqa: BLE001  a fork must not return into its parent's loop
        traceback.print_exc()
    finally:
        os._exit(1)


def main() -> None:
    import cloned_proxy.cli.commands.serving.serve_foreground  # noqa: PLC0415  what the forks share
    import tests.net.broken_builds  # noqa: F401, PLC0415
    from cloned_proxy.cli.start.app import program  # noqa: PLC0415

    _ = cloned_proxy, program()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _be_a_build(wanted["arguments"], wanted["log"], wanted["directory"])
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
