"""The first fleet of docs/fleet.md, typed into one shell as it stands there: it prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.tour import ROOT, marked, steps
from tests.cli.program import PROGRAM
from tests.docs.transcript import comparable
from tests.fleet.conftest import need_redis

pytestmark = pytest.mark.checkout
PAGE = ROOT / "docs" / "fleet.md"
WAIT = 60.0
_END = "--- the end of it ---"
_DIFFERS = (
    (re.compile(r"ed25519:[\w+/]{43}="), "<key>"),
    (re.compile(r"\bafter \d+ ms"), "after <time>"),
    (re.compile(r"\bby \S+@\S+: "), "by <who>: "),
    (re.compile(r"\b\d+ s  "), "<age>  "),
)


class Shell:
    """One bash: what is put into the background, and where one stands, stays from command to command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        environment = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment | {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HOME": str(directory)},
            text=True,
        )
        # Whatever hangs is ended, and the reader below sees the end of the output.
        self._guard = threading.Timer(4 * WAIT, self._bash.kill)
        self._guard.start()

    def run(self, command: str) -> str:
        """What a terminal shows of it."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{{ {command}\n}} 2>&1; echo '{_END}'\n")
        self._bash.stdin.flush()
        shown: list[str] = []
        for line in self._bash.stdout:
            if line.rstrip("\n").endswith(_END):
                return "".join(shown) + line.rstrip("\n").removesuffix(_END)
            shown.append(line)
        raise AssertionError(f"{command}: the shell has ended: {''.join(shown)}")

    def close(self) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write("kill -9 $(jobs -p) 2>/dev/null; wait\n")
        self._bash.stdin.close()
        self._bash.wait(WAIT)
        self._guard.cancel()
        assert self._bash.stdout is not None
        self._bash.stdout.close()


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    need_redis()
    found = Shell(tmp_path_factory.mktemp("f"))  # short: the path of a unix socket has an end
    yield found
    found.close()


def plain(text: str, directory: Path) -> list[str]:
    text = text.replace(str(directory), "/home/me/fleet")
    for pattern, instead in _DIFFERS:
        text = pattern.sub(instead, text)
    return comparable(text)


def test_a_first_fleet_of_two(shell: Shell) -> None:
    walked = list(steps(marked(PAGE.read_text(), "fleet")))
    assert len(walked) > 15
    for step in walked:
        # Ports that this machine gives, since the page's may be in use here.
        command = re.sub(r"127\.0\.0\.1:900\d", "127.0.0.1:0", step.command)
        wanted, deadline = plain(step.output, shell.directory), time.monotonic() + WAIT
        while (found := plain(shell.run(command), shell.directory)) != wanted:
            # Who looks at the status too early looks again; everything else is as the page says at once.
            assert " fleet status " in command, (command, found, wanted)
            assert time.monotonic() < deadline, (command, found, wanted)
            time.sleep(0.2)
