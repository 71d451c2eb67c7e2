"""The proxies that are compared, on equal terms: the same allowlist, one log line for each request, loopback only."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, ClassVar, Final

from bench.measure import cpu_seconds
from bench.wire import HOST, marked_bytes, marked_hello, real_hello
from cloned_proxy.proxy.plane.choice import PlaneMode, choose

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_HELLO: Final = real_hello()


class ContenderError(Exception):
    pass


def rule_hosts(count: int) -> list[str]:
    """`count` allowed names; the one that is asked for stands last, where a list is dear and a table is not."""
    return [f"api{number}.service{number % 97}.example" for number in range(count - 1)] + [HOST]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Contender(ABC):
    """One proxy process tree; `directory` is its own and holds its configuration and logs."""

    name: ClassVar[str]
    asks: ClassVar[bool] = True
    """Whether its clients ask for a tunnel with CONNECT."""

    def __init__(self, directory: Path, ports: tuple[int, int], rules: int) -> None:
        """`ports` are the upstream's: plain HTTP and TLS."""
        self.directory = directory
        self.ports = ports
        self.rules = rules
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """The version; None when it is not here and cannot be had."""

    @abstractmethod
    def command(self) -> list[str]:
        """Writes the configuration and returns the command."""

    def first_bytes(self, size: int) -> bytes:
        """What a client sends to get `size` bytes through a tunnel."""
        return marked_hello(_HELLO, size)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ContenderError(f"{self.name} is not running")
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def address_for(self, port: int) -> tuple[str, int]:  # noqa: ARG002  a proxy is asked for every port at its own
        """Where clients connect that want something of this port of the upstream."""
        return self.address

    def cpu(self) -> float:
        """CPU-seconds of its processes so far."""
        return cpu_seconds(self.pid)

    def start(self) -> None:
        """Returns when it accepts connections. Raises ContenderError with the end of its log."""
        self.directory.mkdir(parents=True)
        command = self.command()
        self._log = (self.directory / "output.log").open("wb")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CLONED_")}
        # A session of its own: whatever it starts can be ended with it.
        self._process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=environment,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=1):
                return
            time.sleep(0.1)
        self.stop()
        tail = (self.directory / "output.log").read_text(errors="replace")[-600:]
        raise ContenderError(f"{self.name} did not start:\n{tail}")

    def stop(self) -> None:
        """Ends the process it started, gently, then at once."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # its group holds only what it left behind
        if self._log is not None:
            self._log.close()
            self._log = None


class Ours(Contender):
    name = "cloned-proxy"
    workers = 1
    more_policy = ""
    """Lines behind the global rules."""
    settings = "audit: {denials_per_minute: 1000000000}\n"
    """The others answer any number of refused calls, one log line for each; so do we here."""

    @classmethod
    def version(cls) -> str | None:
        chosen = choose(PlaneMode.AUTO)
        return f"{importlib.metadata.version('cloned-proxy')}, plane: {chosen.plane} ({chosen.why})"

    @property
    def policy(self) -> Path:
        return self.directory / ".cloned" / "policy.yaml"

    def write_policy(self, hosts: list[str], *literals: str) -> float:
        """Replaces the policy file; returns when (monotonic seconds). `literals` are allowed addresses beside them."""
        ports = ", ".join(str(port) for port in self.ports)
        lines = [f"    - {name}\n" for name in hosts if name != HOST]
        lines.append(f"    - {{host: {HOST}, ports: [{ports}], addresses: [private]}}\n")
        lines += [f"    - {{host: {literal}, ports: [{self.ports[1]}]}}\n" for literal in literals]
        fresh = self.policy.with_suffix(".new")
        rules = "".join(lines) + self.more_policy
        fresh.write_text(f"version: 1\nmode: enforce\nanonymous: global\nglobal:\n  allow:\n{rules}")
        fresh.chmod(0o600)
        fresh.replace(self.policy)
        return time.monotonic()

    def command(self) -> list[str]:
        self.policy.parent.mkdir(mode=0o700)
        self.write_policy(rule_hosts(self.rules))
        config = self.policy.with_name("config.yaml")
        config.write_text(self.settings)
        config.chmod(0o600)
        self.metrics_port = free_port()
        command = [str(Path(sys.executable).with_name("cloned-proxy")), "serve"]
        command += ["--workspace", str(self.policy.parent), "--listen", f"127.0.0.1:{self.port}"]
        command += ["--metrics", f"127.0.0.1:{self.metrics_port}", "--control", "off"]
        return command + (["--workers", str(self.workers)] if self.workers > 1 else [])


class OursTwice(Ours):
    """Two threads of the native plane; without it, two processes."""

    name = "cloned-proxy, 2 workers"
    workers = 2

    def command(self) -> list[str]:
        native = choose(PlaneMode.AUTO).library is not None
        return [*super().command(), *(("--plane", "require") if native else ())]


class OursPython(Ours):
    """Without the native plane, where `cloned-proxy` has it."""

    name = "cloned-proxy, Python alone"

    @classmethod
    def version(cls) -> str | None:
        return super().version() if choose(PlaneMode.AUTO).library is not None else None

    def command(self) -> list[str]:
        return [*super().command(), "--plane", "off"]


class Squid(Contender):
    name = "Squid"

    @classmethod
    def version(cls) -> str | None:
        return _version_of("squid", "-v", field=3)

    def command(self) -> list[str]:
        here = self.directory
        (here / "allow.txt").write_text("\n".join(rule_hosts(self.rules)) + "\n")
        logs = here / "logs"
        logs.mkdir()
        with contextlib.suppress(LookupError, PermissionError):
            shutil.chown(logs, "proxy")  # started as root it becomes this user
        (here / "squid.conf").write_text(
            f"http_port 127.0.0.1:{self.port}\n"
            f'acl allowed dstdomain -n "{here}/allow.txt"\n'
            f"acl ports port {self.ports[0]} {self.ports[1]}\n"
            "http_access deny !ports\nhttp_access allow allowed\nhttp_access deny all\n"
            f"access_log daemon:{logs}/access.log squid\ncache_log {logs}/cache.log\n"
            f"cache deny all\npid_filename none\ncoredump_dir {logs}\npinger_enable off\nshutdown_lifetime 1 seconds\n"
            "max_filedescriptors 65536\nvisible_hostname bench\n"
        )
        return ["squid", "-N", "-f", str(here / "squid.conf")]


class Tinyproxy(Contender):
    name = "tinyproxy"

    @classmethod
    def version(cls) -> str | None:
        return _version_of("tinyproxy", "-v", field=1)

    def command(self) -> list[str]:
        here = self.directory
        filters = [f"^{name.replace('.', '[.]')}$" for name in rule_hosts(self.rules)]
        (here / "filter").write_text("\n".join(filters) + "\n")
        (here / "tinyproxy.conf").write_text(
            f'Port {self.port}\nListen 127.0.0.1\nTimeout 600\nLogFile "{here}/access.log"\nLogLevel Connect\n'
            f'MaxClients 12000\nFilter "{here}/filter"\nFilterDefaultDeny Yes\nFilterExtended On\n'
            f"ConnectPort {self.ports[1]}\n"
        )
        return ["tinyproxy", "-d", "-c", str(here / "tinyproxy.conf")]


_MITM_ADDON: Final = '''"""Fifteen lines of allowlist, as people write them."""
from pathlib import Path

from mitmproxy import http

ALLOWED = set((Path(__file__).parent / "allow.txt").read_text().split())


def refuse_unless_allowed(flow: http.HTTPFlow) -> None:
    if flow.request.host not in ALLOWED:
        flow.response = http.Response.make(403, b"denied")


http_connect = request = refuse_unless_allowed
'''


class Mitmdump(Contender):
    """Stock: every default, so it opens TLS; marked bytes go through it as raw TCP, which is cheaper for it."""

    name = "mitmdump"

    @classmethod
    def version(cls) -> str | None:
        return importlib.metadata.version("mitmproxy")

    def first_bytes(self, size: int) -> bytes:
        return marked_bytes(size) if size else super().first_bytes(size)

    def command(self) -> list[str]:
        here = self.directory
        (here / "allow.txt").write_text("\n".join(rule_hosts(self.rules)) + "\n")
        (here / "allow.py").write_text(_MITM_ADDON)
        command = [str(Path(sys.executable).with_name("mitmdump")), "--listen-host", "127.0.0.1"]
        command += ["--listen-port", str(self.port), "--set", f"confdir={here}", "--set", "ssl_insecure=true"]
        return [*command, "-s", str(here / "allow.py")]


CONTENDERS: Final[tuple[type[Contender], ...]] = (Ours, OursTwice, OursPython, Squid, Tinyproxy, Mitmdump)


def _version_of(program: str, option: str, *, field: int) -> str | None:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        return None
    said = subprocess.run([path, option], capture_output=True, text=True, check=False).stdout.split()
    return said[field] if len(said) > field else "unknown"
