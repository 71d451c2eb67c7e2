"""`cloned-proxy exec` as a person uses it: streams, exit codes, Ctrl-C, and a proxy of its own when none runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.sandbox.exec_job import parse_mount
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.runner.docker.engine import Engine
from tests.cli.program import eventually
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import TOOL
from tests.runner.warm import TYPED, warm_up

PROGRAM = [sys.executable, "-m", "cloned_proxy", "exec"]
docker = pytest.mark.docker


@pytest.fixture(params=["typed", "warm"])
def workspace(
    module_serving: Serving, engine: Engine, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Each test is run twice: the process that is typed runs the command, or one that was there before it."""
    place = module_serving.workspace
    if request.param == "warm":
        warm_up(engine, place, TOOL)
    else:
        monkeypatch.setenv("PYTHONPATH", TYPED["PYTHONPATH"])
    yield place
    eventually(lambda: leftovers(engine, place) == [], 60, "the end of the run")


def execute(workspace: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, "--workspace", str(workspace), *words]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)


@docker
def test_streams_and_exit_code_pass_through(workspace: Path) -> None:
    done = execute(workspace, TOOL, "--", "sh", "-c", "cat; echo oops >&2; exit 41", stdin=b"in\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"in\n", b"oops\n", 41)


@docker
def test_each_refusal_is_named_once_while_the_command_still_runs(workspace: Path) -> None:
    script = "for n in 1 1 2; do curl -s http://h$n.example/ >/dev/null; done; read word; exit 5"
    words = [*PROGRAM, "--workspace", str(workspace), TOOL, "--", "sh", "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        for host in ("h1.example:80", "h2.example:80"):
            assert process.stderr.readline().startswith(f"cloned-proxy: refused {host} (host_not_allowed); ")
        assert process.poll() is None
        process.stdin.write("on\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 5


@docker
def test_output_comes_while_the_command_still_runs(workspace: Path) -> None:
    words = [*PROGRAM, "--workspace", str(workspace), TOOL, "--", "sh", "-c", "echo first; read on; echo last"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"first\n"
        process.stdin.write(b"on\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"last\n"


@docker
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_tool_and_leaves_nothing(workspace: Path, number: signal.Signals, code: int) -> None:
    words = [*PROGRAM, "--workspace", str(workspace), TOOL, "--", "sh", "-c", "echo up; sleep 600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(60) == code


@docker
def test_a_timeout_kills_it(workspace: Path) -> None:
    done = execute(workspace, TOOL, "--timeout", "0.7", "--", "sleep", "600")
    assert (done.returncode, b"--timeout" in done.stderr) == (124, True)


@docker
def test_too_much_memory_is_said_with_both_ways_to_have_more(workspace: Path) -> None:
    done = execute(workspace, "--memory", "32m", TOOL, "--", "python3", "-c", "bytearray(100 << 20)")
    assert (done.returncode, done.stderr) == (
        137,
        b"cloned-proxy: demo.tool@v1 used more memory than it may; raise --memory or sandbox.memory_mib\n",
    )


@docker
def test_only_what_was_asked_for_enters(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "hunter2")
    tmp_path.chmod(0o755)
    (tmp_path / "data").write_text("data\n")
    script = "env; cat /mnt/x/data; touch /mnt/x/y"
    done = execute(
        workspace, "--env", "GREETING=hello", "--mount", f"{tmp_path}:/mnt/x", TOOL, "--", "sh", "-c", script
    )
    assert b"GREETING=hello\n" in done.stdout
    assert b"data\n" in done.stdout
    assert b"hunter2" not in done.stdout
    assert not (tmp_path / "y").exists()


@docker
def test_without_a_proxy_it_starts_one_for_its_own_time_and_says_so(images: Engine, tmp_path: Path) -> None:
    workspace = tmp_path / "code" / ".cloned"
    done = execute(workspace, TOOL, "--", "sh", "-c", "curl -sS https://denied.example/")
    assert b"starting one for the duration of this command" in done.stderr
    assert b"403" in done.stderr
    assert b"cloned-proxy: refused denied.example:443 (host_not_allowed); " in done.stderr
    assert f"cloned-proxy allow denied.example --tool {TOOL}\n".encode() in done.stderr
    assert not (workspace / "run" / "slots.sock").exists()
    assert leftovers(images, workspace) == []


BAD: list[tuple[str, list[str], bytes]] = [
    ("not set here", ["--env", "NOT_SET_HERE", TOOL, "--", "true"], b"NOT_SET_HERE is not set in this environment"),
    ("a variable of the sandbox", ["--env", "HTTP_PROXY=x", TOOL, "--", "true"], b"set by the sandbox"),
    ("half a mount", ["--mount", "x", TOOL, "--", "true"], b"SRC:DST"),
    ("a mount over the workspace", ["--mount", "/tmp:/workspace", TOOL, "--", "true"], b"belongs to the sandbox"),
    ("a size that is none", ["--memory", "lots", TOOL, "--", "true"], b"200MiB"),
    ("a tool id that is none", ["a b", "--", "true"], b"not a tool id"),
    ("the host's network", ["--network", "host", TOOL, "--", "true"], b"none or a named network"),
    ("a network that does not exist", ["--network", "nowhere", TOOL, "--", "true"], b"docker network create"),
    ("no command", [TOOL], b"CMD"),
]


@docker
@pytest.mark.parametrize(("words", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_words_are_refused_with_the_fix(workspace: Path, words: list[str], message: bytes) -> None:
    done = execute(workspace, *words)
    assert done.returncode == 2, done
    assert message in done.stderr


@docker
def test_another_policy_than_the_one_that_is_served_is_refused(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("version: 1\n", encoding="utf-8")
    done = execute(workspace, "--policy", str(other), TOOL, "--", "true")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"cloned-proxy: --policy %b: a proxy serves " % bytes(other))
    assert execute(workspace, "--policy", str(workspace / "policy.yaml"), TOOL, "--", "true").returncode == 0


@docker
def test_a_missing_image_names_the_fix(workspace: Path) -> None:
    done = execute(workspace, "--image", "nothing.example/x:1", TOOL, "--", "true")
    assert (done.returncode, b"docker pull nothing.example/x:1" in done.stderr) == (1, True)


@docker
def test_no_engine_names_the_fix(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DOCKER_HOST", "unix:///nowhere/engine.sock")
    done = execute(workspace, TOOL, "--", "true")
    monkeypatch.undo()
    assert (done.returncode, b"apt-get install docker.io" in done.stderr) == (1, True)


def test_mounts() -> None:
    assert parse_mount("/a:/b").read_only
    assert not parse_mount("/a:/b:rw").read_only
    for text in ("/a", "/a:/b:exec", "/a:/b:ro:x"):
        with pytest.raises(CommandError):
            parse_mount(text)


@docker
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_without_capabilities_it_forwards_by_itself_and_still_leaves_nothing(images: Engine, tmp_path: Path) -> None:
    # A deep workspace, too: its sockets' names do not fit an address, and nobody may notice.
    workspace = tmp_path / ("deep" * 20) / ("er" * 30) / ".cloned"
    script = "curl -sS https://denied.example/; mkdir -m 700 /sandbox/d; touch /sandbox/d/f; chmod 500 /sandbox/d"
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    words = [*without, *PROGRAM, "--workspace", str(workspace), TOOL, "--", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "403" in done.stderr) == (0, True), done.stderr
    assert [path for path in (workspace / "run").rglob("*") if path.name != "control"] == []
    assert leftovers(images, workspace) == []
