"""A real `cloned-proxy serve` in the fake internet, whole or with one guard taken out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.store.files.policy_bytes import version_of
from tests.cli.forkserver import Fork
from tests.cli.program import eventually
from tests.net.nursery import Nursling, order
from tests.on_record import Records, reads_the_log
from tests.proxy.support import resident_bytes

if TYPE_CHECKING:
    from tests.net.world import World

_START_SECONDS: Final = 60.0
PROGRAM: Final = str(Path(sys.executable).parent / "cloned-proxy")


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """`without` names the guards that `tests.net.broken_builds` removes; `config` is the text of config.yaml."""

    program: tuple[str, ...] = (PROGRAM, "serve")
    without: tuple[str, ...] = ()
    config: str = ""
    workspace: Path | None = None
    """Instead of a fresh one."""
    disk: str = ""
    """The size of a file system of its own for the workspace, such as `3m`."""
    plane: str = field(default_factory=lambda: os.environ.get("PLANE", "off"))
    """`require` puts the native plane in front; in the environment it does so for all whose test does not say."""


class ProxyProcess:
    """One running proxy. `port` speaks HTTP proxying, `metrics_port` answers /metrics, /healthz and /readyz."""

    def __init__(
        self,
        world: World,
        workspace: Path,
        number: int,
        process: subprocess.Popen[bytes] | Nursling | Fork,
        *,
        native: bool = False,
    ) -> None:
        self.world = world
        self.workspace = workspace
        self.files = world.seen_from_outside(workspace)
        """The workspace as this process reaches it: it may be on a file system that only the world has mounted."""
        self.policy = self.files / "policy.yaml"
        self.number = number
        self.port = number
        self.metrics_port = number + 5000
        self.process = process
        self.records: Records | None = None
        self.native = native
        """The native plane is in front, and grants by itself what was granted before."""

    @classmethod
    def start(cls, world: World, workspace: Path, number: int, policy: str, options: ProxyOptions) -> Self:
        """Returns when `/readyz` says yes; raises RuntimeError with the log when the process ends before."""
        workspace = options.workspace or workspace
        if options.disk:
            world.run(["mount", "-t", "tmpfs", "-o", f"size={options.disk},mode=0700", "tmpfs", str(workspace)])
        files = world.seen_from_outside(workspace)
        for placeholder, port in (("$PORT", number), ("$METRICS", number + 5000)):
            policy = policy.replace(placeholder, str(port))
        replace(files / "policy.yaml", policy)
        if options.config:
            replace(files / "config.yaml", options.config)
        addresses = ["--listen", f"127.0.0.1:{number}", "--metrics", f"127.0.0.1:{number + 5000}", "--control", "off"]
        arguments = ["--workspace", str(workspace), "--plane", options.plane, *addresses]
        log = world.directory / f"serve-{number}.log"
        process: subprocess.Popen[bytes] | Nursling | Fork
        environment = world.environment()
        if options.without:
            process = order(world.nursery, [*options.without, "--", "serve", *arguments], log, workspace)
        elif world.forks.can_fork(options.program[0], environment):
            with log.open("wb") as output:
                process = world.forks.start(
                    [*options.program, *arguments],
                    env=environment,
                    cwd=workspace,
                    stdout=output.fileno(),
                    stderr=output.fileno(),
                )
        else:
            with log.open("wb") as output:
                process = world.spawn([*options.program, *arguments], cwd=workspace, stdout=output, stderr=output)
        proxy = cls(world, workspace, number, process, native=options.plane == "require")
        proxy.wait_ready()
        proxy.records = Records(files / "state.db", lambda: proxy.http_get("/metrics")[1])
        return proxy

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """Everything the process printed."""
        return (self.world.directory / f"serve-{self.number}.log").read_text(errors="replace")

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self.http_get("/readyz")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"serve is not ready (exit {self.process.poll()}):\n{self.said()}")
            time.sleep(0.05)

    def http_get(self, path: str) -> tuple[int, str]:
        """What the metrics address answers; status 0 when nobody does."""
        try:
            with self.world.connect("127.0.0.1", self.metrics_port) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                text = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
        except OSError:
            return 0, ""
        match = re.match(r"HTTP/1\.[01] (\d+)", text)
        return (int(match[1]) if match else 0), text.partition("\r\n\r\n")[2]

    def connect(self) -> socket.socket:
        """A client connection to the proxy."""
        return self.world.connect("127.0.0.1", self.port)

    def token(self, tool: str, *, ttl: float = 3600, key: bytes | None = None) -> str:
        """A credential for a tool, signed with this workspace's key, or another."""
        key = key if key is not None else self.identity_key()
        return mint_token(key, Claims(tool, "run-1", time.time() + ttl))

    def identity_key(self) -> bytes:
        return (self.files / "identity.key").read_bytes()

    def tool_url(self, tool: str) -> str:
        """The proxy address with a tool's credential, as `cloned-proxy token` prints it."""
        printed = self.command("token", tool, "--json")
        url: str = json.loads(printed.stdout)["proxy"]
        parts = urllib.parse.urlsplit(url)
        return f"http://{parts.username}:{parts.password}@127.0.0.1:{self.port}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `cloned-proxy` command on the workspace. What reads the log waits for all that was answered."""
        if reads_the_log(arguments) and self.records is not None and self.process.poll() is None:
            self.records.complete()
        return self.world.program(*arguments, "--workspace", str(self.workspace), cwd=self.workspace)

    def log(self, *arguments: str) -> list[dict[str, Any]]:
        """The decisions on record. The end of what was let through may not be yet: wait for that."""
        lines = self.command("log", "--json", *arguments).stdout.splitlines()
        return [json.loads(line) for line in lines if line]

    def resident(self) -> int:
        """Resident memory of the process in bytes."""
        return resident_bytes(self.process.pid)

    def write_policy(self, text: str) -> None:
        replace(self.policy, text)

    def edit_policy(self, text: str) -> None:
        """Returns when the policy, which must be a good one, is in force: the proxy says so, with its version."""
        before, version = len(self.said()), version_of(text.encode())
        replace(self.policy, text)
        eventually(lambda: version in self.said()[before:], what="the policy in force")

    def kill(self) -> None:
        """As the kernel would: no clean-up of any kind."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, TimeoutError):
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
            return
        self.kill()


def replace(path: Path, text: str) -> None:
    """Writes a file the way editors do: beside it, then renamed into place."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.chmod(0o600)
    beside.rename(path)
