"""The line that turns a waiting shell into the command: every word arrives as it was, and what follows is its input."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cloned_proxy.runner.docker.gate import GATE, opening

SHOW = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(os.fsencode(w) for w in sys.argv[1:])); print(input())"
WORDS = [
    "",
    "a b",
    "it's",
    "'",
    "''",
    '"$n"',
    "$HOME",
    "`id`",
    "\\",
    "a\\nb",
    "one\ntwo\n",
    "\n",
    "*",
    "-n",
    "ü",
    "\udcff",
]


def through(command: tuple[str, ...], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    line = opening(command)
    assert line is not None
    return subprocess.run(GATE, input=line + stdin, capture_output=True, check=False, timeout=60)


def test_words_and_input_arrive_as_they_are() -> None:
    done = through((sys.executable, "-c", SHOW, *WORDS), b"typed\n")
    expected = "\0".join(WORDS).encode(errors="surrogateescape") + b"typed\n"
    assert (done.stdout, done.stderr) == (expected, b"")


def test_the_command_finds_the_environment_that_the_shell_was_started_with() -> None:
    line = opening(("env",))
    assert line is not None
    env = {"PATH": "/usr/bin:/bin", "PWD": "/"}
    done = subprocess.run(GATE, input=line, capture_output=True, check=True, timeout=60, env=env, cwd="/")
    assert sorted(done.stdout.splitlines()) == [b"PATH=/usr/bin:/bin", b"PWD=/"]


def test_what_is_missing_is_told_in_the_words_of_the_engines_init() -> None:
    done = through(("nope-there-is-none",))
    assert done.returncode == 127
    assert done.stderr.endswith(b"] exec nope-there-is-none failed: No such file or directory\n") or (
        b"exec nope-there-is-none failed: No such file or directory" in done.stderr
    )


def test_the_exit_code_is_the_commands() -> None:
    assert through(("sh", "-c", "exit 41")).returncode == 41


def test_an_end_of_input_before_any_command_runs_nothing() -> None:
    assert subprocess.run(GATE, input=b"", capture_output=True, check=False, timeout=60).returncode == 125


@pytest.mark.parametrize("command", [("-c", "x"), ("sh", "x" * 40_000)], ids=["an option", "too long"])
def test_what_is_better_started_as_it_is_has_no_line(command: tuple[str, ...]) -> None:
    assert opening(command) is None
