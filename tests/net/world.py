"""The fake internet as tests see it: run programs in it, dial in it, and ask what arrived where.

The judge is bytes at a canary and names at the DNS server. A status code is what the proxy says about itself.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cli.forkserver import PATIENCE, PROGRAM, ForkServer
from tests.net import namespace, zone
from tests.net.proxy_process import ProxyOptions, ProxyProcess

ROOT: Final = Path(__file__).resolve().parents[2]
_END_SECONDS: Final = 30.0
_START_SECONDS: Final = 60.0
_PATIENCE: Final = 5.0
"""Seconds until a read on a connection of a test gives up."""


class WorldError(RuntimeError):
    """The fake internet itself does not work; never the fault of what is being tested."""


@dataclass(frozen=True, slots=True)
class Contact:
    """One connection that a canary accepted."""

    address: str
    port: int
    count: int
    """Bytes received."""
    marker: bool
    """Whether the marker asked for was among them."""


class World:
    """One for a test session. Everything in it ends with `stop`, or with this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.content = directory / "content"
        """Files that every canary serves."""
        self.content.mkdir(parents=True)
        self.certificate = directory / "ca.pem"
        self._ports = itertools.count(10_001)
        self._markers = itertools.count(1)
        self._children: list[subprocess.Popen[bytes]] = []
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (directory / "inside.log").open("wb") as log:
            self._inside = namespace.start(
                [sys.executable, "-m", "tests.net.inside", str(directory)], stdout=log, stderr=log, env=environment
            )
        self._control = self._dial_control()
        self._turn = threading.Lock()
        """Of the control connection: an answer goes to the thread that asked."""
        self._namespace = os.readlink(f"/proc/{self._inside.pid}/ns/net")  # noqa: PTH115  the target is no path

    # Programs -------------------------------------------------------------------------------------------------

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """A clean environment that trusts the throw-away CA and knows no proxy."""
        kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        for key in ("CLONED_WORKSPACE", "CLONED_POLICY", "CLONED_EGRESS_PROXY", "PYTHONPATH"):
            kept.pop(key, None)
        trust = {"SSL_CERT_FILE": str(self.certificate), "NODE_EXTRA_CA_CERTS": str(self.certificate)}
        return {**kept, **trust, **(extra or {})}

    def spawn(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | Any = subprocess.DEVNULL,
        stdout: int | Any = subprocess.DEVNULL,
        stderr: int | Any = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Starts a program inside; its process id is the program's own."""
        line = namespace.enter(self._inside.pid, command, cwd)
        child = subprocess.Popen(line, env=self.environment(env), stdin=stdin, stdout=stdout, stderr=stderr)
        self._children.append(child)
        return child

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program inside to its end and keeps what it printed."""
        line = namespace.enter(self._inside.pid, command, cwd)
        return subprocess.run(
            line,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def serve(self, policy: str, options: ProxyOptions | None = None) -> ProxyProcess:
        """A real `cloned-proxy serve` inside, ready to be asked."""
        number = next(self._ports)
        workspace = self.directory / f"workspace-{number}"
        workspace.mkdir(mode=0o700)
        return ProxyProcess.start(self, workspace, number, policy, options or ProxyOptions())

    @functools.cached_property
    def nursery(self) -> subprocess.Popen[bytes]:
        """Forks broken builds; started when first needed."""
        command = [sys.executable, "-m", "tests.net.nursery"]
        environment = {"PYTHONPATH": str(ROOT)}
        return self.spawn(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @functools.cached_property
    def forks(self) -> ForkServer:
        """Forks the program itself inside; started when first needed."""
        return ForkServer(self.environment(), lambda words: namespace.enter(self._inside.pid, words, ROOT))

    def program(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs `cloned-proxy` inside to its end."""
        words = [str(PROGRAM), *arguments]
        if self.forks.can_fork(words[0], self.environment()):
            return self.forks.run(words, env=self.environment(), cwd=cwd)
        return self.run(words, cwd=cwd, timeout=PATIENCE)

    def seen_from_outside(self, path: Path) -> Path:
        """A path inside, as this process can open it."""
        return Path(f"/proc/{self._inside.pid}/root") / path.relative_to("/")

    # Connections ----------------------------------------------------------------------------------------------

    def connect(self, host: str, port: int) -> socket.socket:
        """A TCP connection made inside and handed out as a file descriptor."""
        return self._dial({"do": "connect", "host": host, "port": port})

    def connect_unix(self, path: Path) -> socket.socket:
        return self._dial({"do": "connect", "unix": str(path)})

    # Judgement ------------------------------------------------------------------------------------------------

    def marker(self) -> str:
        """A word that nothing else in this session says."""
        return f"marker{next(self._markers):05d}x{os.getpid()}"

    def contacts(self, marker: str = "") -> list[Contact]:
        return [Contact(**entry) for entry in self._ask("contacts", marker=marker)]

    def saw(self, marker: str) -> list[tuple[str, int]]:
        """Where the marker arrived: (address, port) of each connection that carried it, inside TLS too."""
        return [(contact.address, contact.port) for contact in self.contacts(marker) if contact.marker]

    def touched(self, host: str, port: int | None = None) -> bool:
        """Whether anything connected to the host (a name or an address), with or without sending a byte."""
        places = zone.place(host)
        return any(c.address in places and port in (None, c.port) for c in self.contacts())

    def bytes_at(self, host: str, port: int) -> int:
        """Bytes that arrived at the host (a name or an address) and port."""
        places = zone.place(host)
        return sum(c.count for c in self.contacts() if c.address in places and c.port == port)

    def text_at(self, host: str, port: int) -> str:
        """What arrived there, inside TLS where there was TLS."""
        texts: list[str] = [self._ask("text", address=place, port=port) for place in zone.place(host)]
        return "".join(texts)

    def dns_names(self) -> list[str]:
        """Every question that reached the DNS server, in order."""
        names: list[str] = self._ask("names")
        return names

    def settle(self) -> None:
        """Gives bytes in flight the time to arrive before something is said not to have."""
        time.sleep(0.03)

    def reset(self) -> None:
        """Forgets all connections and questions."""
        self._ask("reset")

    # The end --------------------------------------------------------------------------------------------------

    def stop(self) -> list[int]:
        """Ends everything inside. Returns the ids of processes that would not go: an empty list."""
        if "forks" in self.__dict__:
            self.forks.close()
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        self._control.close()
        self._inside.wait(timeout=60)
        # Forks of a killed process get their own signal a moment later; a caretaker has slots to remove first.
        deadline = time.monotonic() + _END_SECONDS
        while (left := namespace.processes_in(self._namespace)) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.directory, ignore_errors=True)
        return left

    def _dial_control(self) -> socket.socket:
        deadline = time.monotonic() + _START_SECONDS
        control = socket.socket(socket.AF_UNIX)
        while True:
            try:
                control.connect(str(self.directory / "control"))
            except OSError:
                if time.monotonic() > deadline or self._inside.poll() is not None:
                    said = (self.directory / "inside.log").read_text()
                    raise WorldError(f"the fake internet did not start:\n{said}") from None
                time.sleep(0.02)
            else:
                return control

    def _ask(self, command: str, **values: str | int) -> Any:
        with self._turn:
            return self._asked(command, **values)

    def _asked(self, command: str, **values: str | int) -> Any:
        self._control.sendall(json.dumps({"do": command, **values}).encode() + b"\n")
        reply = bytearray()
        while not reply.endswith(b"\n"):
            data = self._control.recv(1 << 20)
            if not data:
                raise WorldError("the fake internet went away: " + (self.directory / "inside.log").read_text())
            reply += data
        return json.loads(reply)["ok"]

    def _dial(self, order: dict[str, str | int]) -> socket.socket:
        with self._turn:
            self._control.sendall(json.dumps(order).encode() + b"\n")
            reply, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
        if not descriptors:
            raise ConnectionRefusedError(json.loads(reply).get("error", "no connection"))
        connection = socket.socket(fileno=descriptors[0])
        connection.settimeout(_PATIENCE)
        return connection
