"""Proxies that stand in front of ours in the fake internet: real Squid, tinyproxy and mitmproxy, and one that lies.

They sit on a private address, as a company's proxy does: no rule opens it, only the operator's `upstream:` leads there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.net.world import World

ADDRESS: Final = "10.0.0.9"
USER: Final = "corp-user"
PASSWORD: Final = "pa55word.corp"
"""Of letters that tinyproxy's configuration can hold."""
_START_SECONDS: Final = 100.0
_SQUID_HELPER: Final = Path("/usr/lib/squid/basic_ncsa_auth")


@dataclass(frozen=True, slots=True)
class Front:
    """One that runs. `url` is for `upstream: {proxy: …}`."""

    name: str
    port: int
    directory: Path
    process: subprocess.Popen[bytes]
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{ADDRESS}:{self.port}"

    def said(self) -> str:
        """Everything that it wrote down: its log of requests, and what it printed."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def needed(program: str) -> str:
    """Its path. Without it the tests skip, in CI they fail."""
    if (found := shutil.which(program)) is not None:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"{program} is required in CI")
    pytest.skip(f"{program} IS NOT INSTALLED: nothing was tried with it in front")


@contextlib.contextmanager
def squid(world: World, port: int, *, password: bool = False, extra: str = "") -> Iterator[Front]:
    """As Debian's own configuration: CONNECT to 443 alone. Its log has one line a request."""
    program = needed("squid")
    with _directory() as here:
        (here / "users").write_text(f"{USER}:{_hashed(PASSWORD)}\n")
        known = f"auth_param basic program {_SQUID_HELPER} {here}/users\nacl known proxy_auth REQUIRED\n"
        (here / "squid.conf").write_text(
            f"http_port {ADDRESS}:{port}\n{known if password else ''}{extra}"
            "acl CONNECT method CONNECT\nacl SSL_ports port 443\nhttp_access deny CONNECT !SSL_ports\n"
            f"http_access allow {'known' if password else 'all'}\nhttp_access deny all\n"
            f"access_log stdio:{here}/access.log squid\ncache_log {here}/cache.log\n"
            f"cache deny all\npid_filename none\ncoredump_dir {here}\npinger_enable off\nshutdown_lifetime 0 seconds\n"
            "visible_hostname squid.corp.example\n"
        )
        with _running(
            world,
            "Squid",
            port,
            here,
            [program, "-N", "-n", f"front{port}x{os.getpid()}", "-f", str(here / "squid.conf")],
        ) as front:
            yield front


@contextlib.contextmanager
def tinyproxy(world: World, port: int, *, password: bool = False) -> Iterator[Front]:
    program = needed("tinyproxy")
    with _directory() as here:
        (here / "tinyproxy.conf").write_text(
            f"Port {port}\nListen {ADDRESS}\nTimeout 60\nMaxClients 100\nLogLevel Connect\nConnectPort 443\n"
            f'LogFile "{here}/tinyproxy.log"\n' + (f"BasicAuth {USER} {PASSWORD}\n" if password else "")
        )
        command = [program, "-d", "-c", str(here / "tinyproxy.conf")]
        with _running(world, "tinyproxy", port, here, command) as front:
            yield front


@contextlib.contextmanager
def mitmproxy(world: World, port: int, *, secure: bool = False) -> Iterator[Front]:
    """Opens no TLS of what passes; a client may speak TLS to it, with a certificate of its own authority."""
    with _directory() as here:
        program = str(Path(sys.executable).with_name("mitmdump"))
        command = [program, "--listen-host", ADDRESS, "--listen-port", str(port), "--set", f"confdir={here}",
                   "--ignore-hosts", ".*", "--set", "connection_strategy=lazy"]  # fmt: skip
        with _running(world, "mitmproxy", port, here, command, as_root=True) as front:
            yield Front(front.name, port, here, front.process, "https") if secure else front


def config(front: Front, more: str = "") -> str:
    """The text of config.yaml that puts it in front."""
    return f"upstream: {{proxy: '{front.url}'{', ' + more if more else ''}}}\n"


@contextlib.contextmanager
def _directory(*, readable: bool = True) -> Iterator[Path]:
    """For a program that becomes another user, who must get there."""
    with tempfile.TemporaryDirectory(prefix="front-") as made:
        here = Path(made)
        if readable:
            here.chmod(0o755)
            shutil.chown(here, "nobody")
        yield here


@contextlib.contextmanager
def _running(
    world: World, name: str, port: int, here: Path, command: Sequence[str], *, as_root: bool = False
) -> Iterator[Front]:
    lowered = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", f"HOME={here}"]
    dropped = [] if as_root else [*lowered[:4], "env", lowered[4]]
    with (here / "output.log").open("wb") as output:
        environment = {"PYTHONPATH": str(Path(__file__).parents[2])} if as_root else None
        process = world.spawn([*dropped, *command], cwd=here, env=environment, stdout=output, stderr=output)
    front = Front(name, port, here, process)
    try:
        _wait_until_it_answers(world, front)
        yield front
    finally:
        front.stop()


def _wait_until_it_answers(world: World, front: Front) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            world.connect(ADDRESS, front.port).close()
        except OSError:
            if front.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{front.name} does not answer:\n{front.said()}") from None
            time.sleep(0.02)
        else:
            return


def _hashed(password: str) -> str:
    return subprocess.run(
        ["openssl", "passwd", "-apr1", password], capture_output=True, text=True, check=True
    ).stdout.strip()
