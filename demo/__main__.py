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
from pathlib import Path
from typing import Final

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.errors import SandboxError
from cloned_proxy.runner.images import HOLDER_IMAGE, check_current
from cloned_proxy.runner.worker import PYTHON_IMAGE
from demo.tour import ROOT, START, Step, in_shell, marked, steps, with_ports

_PAUSE: Final = float(os.environ.get("DEMO_PAUSE", "4"))
"""Seconds to read each of the dozen steps: about a minute in all."""
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


def _show(step: Step, command: str, output: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    caption = f"\n# {step.caption}" if step.caption else ""
    print(f"{caption}\n{bold}$ {command}{plain}\n{output}", end="", flush=True)
    time.sleep(_PAUSE)


def _play_sandboxed(environment: dict[str, str], directory: Path) -> None:
    """The escape attempts of the README, where there is an engine with our images."""
    if reason := _no_sandbox():
        print(f"\n# No sandboxed tool is shown: {reason}")
        return
    for step in steps(marked((ROOT / "README.md").read_text(), "sandbox")):
        _show(
            step, step.command, in_shell(step.command, program=_PROGRAM, environment=environment, directory=directory)
        )


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
    tour = list(steps(marked((ROOT / "README.md").read_text(), "transcript")))
    ports = {shown: str(_port(int(shown))) for shown in ("8081", "8082", "8083", "9000")}
    with ExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="cloned-proxy-demo-")))
        environment = {**os.environ, "CLONED_WORKSPACE": str(directory / ".cloned")}
        parts.enter_context(_destination(int(ports["9000"])))
        for step in tour:
            if step.command == START:
                output = parts.enter_context(_serving(ports, environment, directory))
                command = START
            else:
                command = with_ports(step.command, ports)
                output = in_shell(command, program=_PROGRAM, environment=environment, directory=directory)
            _show(step, command, output.replace(str(directory / ".cloned"), ".cloned"))
        _play_sandboxed(environment, directory)


if __name__ == "__main__":
    main()
