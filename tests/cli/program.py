"""The installed program as a real process, and a local origin for it to reach."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from cloned_proxy.__main__ import main
from cloned_proxy.program_name import program_name
from tests.cli import forkserver
from tests.cli.forkserver import PATIENCE
from tests.kept_logging import logging_kept
from tests.on_record import Records, reads_the_log
from tests.waiting import eventually as eventually  # noqa: PLC0414  who takes the rest from here takes it, too

PROGRAM: Final = forkserver.PROGRAM
TOOL = "demo.tool@v1"


class Origin:
    """An HTTP server on loopback that counts what reaches it: the judge of what was forwarded."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.slow = threading.Event()
        self.release = threading.Event()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                origin.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                if self.path == "/slow":
                    origin.slow.set()
                    origin.release.wait(120)
                body = b"reached\n"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_HEAD = answer  # noqa: N815  names that http.server calls

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's own name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a caller that was cut is no event
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def reason(self) -> str | None:
        return self.headers.get("x-cloned-proxy-reason")


@dataclass
class Serving:
    """A running `cloned-proxy serve`."""

    process: subprocess.Popen[str] | forkserver.Fork
    port: int
    metrics_port: int
    control_port: int
    """0: off."""
    banner: list[str]
    errors: Path
    records: Records | None = None

    def get(self, url: str, method: str = "GET", headers: dict[str, str] | None = None, timeout: float = 60) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, url, headers=headers or {})
            response = connection.getresponse()
            head = {k.lower(): v for k, v in response.getheaders()}
            return Answer(response.status, head, response.read().decode())
        finally:
            connection.close()

    def page(self, path: str, timeout: float = 90) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, {}, response.read().decode())
        finally:
            connection.close()

    def metrics(self) -> str:
        """ "" when nobody answers."""
        try:
            return self.page("/metrics", timeout=30).body
        except (OSError, http.client.HTTPException):
            return ""

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def log(self) -> str:
        return self.errors.read_text()


@dataclass
class Workspace:
    """A workspace directory and the program run in it."""

    path: Path
    environment: dict[str, str]
    running: list[Serving] = field(default_factory=list)
    program: Path = PROGRAM

    @property
    def policy(self) -> Path:
        return self.path / "policy.yaml"

    def write_policy(self, text: str) -> None:
        """As an editor saves: a new file, renamed over the old one."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        new = self.path / "policy.yaml.new"
        new.write_text(text)
        new.chmod(0o600)
        new.rename(self.policy)

    def run(
        self, *arguments: str, env: dict[str, str] | None = None, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """In a process of its own; `given` is what it reads from stdin. See `started` for what a fork does not show."""
        self._recorded(arguments)
        words = [str(self.program), *arguments]
        return forkserver.run(words, env=self.environment | (env or {}), cwd=self.path.parent, given=given)

    def started(
        self, *arguments: str, env: dict[str, str] | None = None, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """As `run`, from the interpreter's start on."""
        self._recorded(arguments)
        return subprocess.run(
            [self.program, *arguments],
            env=self.environment | (env or {}),
            cwd=self.path.parent,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            input=given,
        )

    def call(
        self, *arguments: str, env: dict[str, str] | None = None, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """As `run`, in this process: for what a message says, a program of its own would only cost time."""
        self._recorded(arguments)
        out, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.path.parent):
            for name in [name for name in os.environ if name.startswith("CLONED_")]:
                patch.delenv(name)
            for name, value in (self.environment | (env or {})).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", [str(self.program), *arguments])
            patch.setattr(sys, "stdin", io.StringIO(given))
            program_name.cache_clear()  # it depends on PATH and directory, which are this test's
            with logging_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    main()
                    code = 0
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else int(end.code is not None)
        program_name.cache_clear()
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def serve(self, *arguments: str, stderr: int | None = None, fork: bool = True) -> Serving:
        """`stderr` is a terminal, such as the end of `open_terminal` that is the program's; `fork` as in `run`."""
        errors = self.path.parent / f"serve-{len(self.running)}.log"
        control = () if "--control" in arguments else ("--control", "off")
        free = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
        command = [str(self.program), "serve", *free, *control, *arguments]
        process: subprocess.Popen[str] | forkserver.Fork
        with errors.open("w") as log:
            wanted = log.fileno() if stderr is None else stderr
            if fork and forkserver.here().can_fork(command[0], self.environment):
                process = forkserver.here().start(command, env=self.environment, cwd=self.path.parent, stderr=wanted)
            else:
                process = subprocess.Popen(
                    command,
                    env=self.environment,
                    cwd=self.path.parent,
                    stdout=subprocess.PIPE,
                    stderr=wanted,
                    stdin=subprocess.DEVNULL,
                    text=True,
                )
        banner = _read_banner(process, errors)
        places = {line.split()[0]: line.split()[1] for line in banner[:3]}
        ports = {name: urlsplit(url).port or 0 for name, url in places.items()}
        serving = Serving(process, ports["proxy"], ports["metrics"], ports["control"], banner, errors)
        serving.records = Records(self.path / "state.db", serving.metrics)
        self.running.append(serving)
        return serving

    def _recorded(self, arguments: Sequence[str]) -> None:
        """What reads the log reads what was answered before."""
        if reads_the_log(arguments):
            for serving in self.running:
                if serving.process.poll() is None and serving.records is not None:
                    serving.records.complete()

    def close(self) -> None:
        for serving in self.running:
            if serving.process.poll() is None:
                serving.signal(signal.SIGKILL)
            serving.process.wait(PATIENCE)
            if serving.process.stdout is not None:
                serving.process.stdout.close()


def _read_banner(process: subprocess.Popen[str] | forkserver.Fork, errors: Path) -> list[str]:
    assert process.stdout is not None
    banner: list[str] = []
    for line in process.stdout:
        banner.append(line.rstrip("\n"))
        if line.startswith("denied"):
            return banner
    raise AssertionError(f"serve ended with {process.wait(PATIENCE)}: {errors.read_text()}")


def policy_text(
    *, mode: str = "enforce", anonymous: str = "global", allow: Sequence[str] = (), tool_allow: Sequence[str] = ()
) -> str:
    """A small policy file; entries are YAML flow mappings or plain hosts."""
    lines = ["version: 1", f"mode: {mode}", f"anonymous: {anonymous}", "global:"]
    lines += ["  allow: []"] if not allow else ["  allow:", *(f"    - {entry}" for entry in allow)]
    lines += ["tools:", f"  {TOOL}:"]
    lines += ["    allow: []"] if not tool_allow else ["    allow:", *(f"      - {entry}" for entry in tool_allow)]
    return "\n".join(lines) + "\n"


def literal(origin: Origin, **extra: str) -> str:
    """An allow entry for the origin."""
    more = "".join(f", {name}: {value}" for name, value in extra.items())
    return f"{{host: 127.0.0.1, ports: [{origin.port}]{more}}}"


A_SECOND: Final = 5.0
"""The contract's second, on a machine that has other things to do as well. The figures belong to the bench."""
