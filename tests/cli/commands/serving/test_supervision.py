"""`serve` under a supervisor: what systemd is told, and the unit that is shipped for it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloned_proxy.share import share_path
from cloned_proxy.store.vault.vault_key import CREDENTIAL
from tests.cli.program import PROGRAM, Origin, Workspace, literal, policy_text

UNIT = share_path("config", "systemd", "cloned-proxy.service")
EXPOSURE = 1.1
"""What `systemd-analyze security` of systemd 252 finds, of 10; the unit's own head names it."""


@contextmanager
def supervisor(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(60)
        yield listening


@pytest.mark.parametrize("abstract", [False, True], ids=["in the file system", "abstract"])
def test_the_supervisor_hears_of_the_start_the_life_and_the_stop(
    workspace: Workspace, tmp_path: Path, abstract: bool
) -> None:
    name = str(tmp_path / "notify")
    with supervisor(f"\0{name}" if abstract else name) as heard:
        workspace.write_policy(policy_text())
        workspace.environment |= {"NOTIFY_SOCKET": f"@{name}" if abstract else name, "WATCHDOG_USEC": "200000"}
        serving = workspace.serve()
        assert heard.recv(100) == b"READY=1"
        assert [heard.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        serving.signal(signal.SIGTERM)
        while (state := heard.recv(100)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1"
        assert serving.wait() == 0


_ALONE = ("--metrics", "off", "--control", "off")


def test_a_proxy_that_cannot_start_is_never_ready(workspace: Workspace, tmp_path: Path) -> None:
    with supervisor(str(tmp_path / "notify")) as heard:
        workspace.write_policy("")
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        assert workspace.run("serve", "--listen", "127.0.0.1:0", *_ALONE, env=environment).returncode == 2
        heard.settimeout(0.2)
        with pytest.raises(TimeoutError):
            heard.recv(100)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, 0),
        ({"NOTIFY_SOCKET": "/nowhere/notify"}, 2),
        ({"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "soon"}, 2),
        ({"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, 2),
    ],
    ids=["no supervisor", "a dead one", "a watchdog without a time", "the watchdog of another process"],
)
def test_without_a_supervisor_it_serves_all_the_same(
    workspace: Workspace, origin: Origin, environment: dict[str, str], told: int
) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    workspace.environment |= environment
    serving = workspace.serve()
    assert serving.get(origin.url()).status == 200
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert serving.log().count("could not be told") == told


def settings() -> dict[str, str]:
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")


def test_the_unit_starts_what_the_program_understands() -> None:
    command = settings()["ExecStart"].split()
    assert Path(command[0]).name == PROGRAM.name
    told = subprocess.run([PROGRAM, "serve", "--help"], capture_output=True, text=True, timeout=90, check=True).stdout
    assert all(word in told for word in command[2:] if word.startswith("--"))
    assert settings()["Type"] == "notify"


def test_the_unit_is_as_closed_as_its_head_says() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    assert f"exposure {EXPOSURE}" in UNIT.read_text()


def test_the_unit_leaves_inspection_the_memory_that_it_needs() -> None:
    """With it pyOpenSSL has no callbacks, and every tunnel whose rule names methods or paths is closed."""
    assert "MemoryDenyWriteExecute" not in settings()


def test_the_unit_asks_for_the_vaults_key_where_the_vault_looks_for_it() -> None:
    assert settings()["LoadCredential"] == CREDENTIAL
