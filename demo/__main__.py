"""`make demo`: the tour of the README in one terminal, in a workspace that is thrown away. Needs no internet."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE, check_current
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import SandboxError
from demo.tour import ROOT, START, Step, in_shell, marked, steps, with_ports

_SECONDS: Final = 43.0
"""The whole tour: what the commands leave of it is shared out, to read their output."""
_COMMAND_SECONDS: Final = 1.0
"""What a command that is still to come will take, on average."""
_LONGEST_PAUSE: Final = 4.0
_PROGRAM: Final = Path(sys.executable).with_name("cloned-proxy")


class _Destination(http.server.BaseHTTPRequestHandler):
    """What there is to reach, since the tour brings its own internet."""

    def do_GET(self) -> None:
        body = b"reached\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's own name
        """The proxy's log is the one to watch."""


def _port(wanted: int) -> int:
    """The port that the README shows, or another one when it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


@contextmanager
def _destination(port: int) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Destination)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _serving(ports: dict[str, str], environment: dict[str, str], directory: Path) -> Iterator[str]:
    """A running `serve`, and what it prints at its start."""
    command = [
        str(_PROGRAM),
        "serve",
        "--listen",
        f"127.0.0.1:{ports['8081']}",
        "--control",
        f"127.0.0.1:{ports['8082']}",
        "--metrics",
        f"127.0.0.1:{ports['8083']}",
    ]
    with (directory / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield _banner(process, directory / "serve.log")
    finally:
        process.terminate()
        process.wait(15)


def _banner(process: subprocess.Popen[str], log: Path) -> str:
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if line.startswith("denied"):
            return "".join(lines)
    raise SystemExit(f"the proxy did not start:\n{log.read_text()}")


@dataclass
class Stage:
    """Where the steps are shown: numbered by their captions, with pauses that fit into the time."""

    steps: list[Step]
    began: float = field(default_factory=time.monotonic)
    shown: int = 0
    chapter: int = 0

    def show(self, step: Step, command: str, output: str) -> None:
        if step.caption:
            self.chapter += 1
            of = sum(bool(each.caption) for each in self.steps)
            print(coloured(f"\n{self.chapter}/{of} {step.caption}", "1;36"))
        print(coloured(f"$ {command}", "1"))
        print(output, end="", flush=True)
        self.shown += 1
        time.sleep(self._pause())

    def _pause(self) -> float:
        if pause := os.environ.get("DEMO_PAUSE"):
            return float(pause)
        to_come = len(self.steps) - self.shown
        left = self.began + _SECONDS - time.monotonic() - to_come * _COMMAND_SECONDS
        return min(_LONGEST_PAUSE, max(0.0, left / (to_come + 1)))


def coloured(text: str, code: str) -> str:
    """`text` in a colour or weight, where a terminal shows it and nobody minds (no-color.org)."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\033[{code}m{text}\033[0m" if wanted else text


def _no_sandbox() -> str:
    """Why no tool can be run in a container here; "" when one can."""
    try:
        engine = Engine.connect()
        try:
            for image in (HOLDER_IMAGE, PYTHON_IMAGE):
                check_current(engine, image)
        finally:
            engine.close()
    except SandboxError as error:
        return str(error)
    return ""


def main() -> None:
    readme = (ROOT / "README.md").read_text()
    no_sandbox = _no_sandbox()
    tour = list(steps(marked(readme, "transcript")))
    sandboxed = [] if no_sandbox else list(steps(marked(readme, "sandbox")))
    stage = Stage([*tour, *sandboxed])
    ports = {shown: str(_port(int(shown))) for shown in ("8081", "8082", "8083", "9000")}
    with ExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="cloned-proxy-demo-")))
        environment = {**os.environ, "CLONED_WORKSPACE": str(directory / ".cloned")}
        parts.enter_context(_destination(int(ports["9000"])))
        for step in stage.steps:
            if step.command == START:
                output = parts.enter_context(_serving(ports, environment, directory))
                command = START
            else:
                command = with_ports(step.command, ports) if step in tour else step.command
                output = in_shell(command, program=_PROGRAM, environment=environment, directory=directory)
            stage.show(step, command, output.replace(str(directory / ".cloned"), ".cloned"))
    if no_sandbox:
        print(f"\n# No sandboxed tool is shown: {no_sandbox}")
    print(coloured("\nThat was the tour; nothing of it is left behind. Next:", "1;36"))
    print("  make serve    starts the proxy for real, and prints a call that is allowed and one that is denied")
    print("  make help     lists the rest; README.md has each step of this tour to copy")


if __name__ == "__main__":
    main()
