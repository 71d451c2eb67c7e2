"""What changed while a container waited: the command gets one that fits, never the one that was made before."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from cloned_proxy.cli.terminal.warm_wire import SOCKET
from cloned_proxy.cli.warm.client import _connected
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from tests.cli.program import eventually
from tests.runner.conftest import leftovers, write_policy
from tests.runner.jobs import TOOL
from tests.runner.warm import inspected, served_workspace, waiting, warm_up, words

type Ran = tuple[str, str]
REBUILT = "cloned-test-rebuilt:1"
COUNT = "import pathlib, sys; print(pathlib.Path('/sandbox/.cloned-ca.pem').read_text().count(sys.argv[1].strip()))"


@pytest.fixture(scope="module")
def place(images: Engine, tmp_path_factory: pytest.TempPathFactory, origin: int) -> Iterator[Path]:
    with served_workspace(images, tmp_path_factory.mktemp("guards"), origin) as workspace:
        yield workspace
    subprocess.run(["docker", "image", "rm", REBUILT], capture_output=True, check=False, timeout=60)


@pytest.fixture
def workspace(place: Path, images: Engine, origin: int) -> Iterator[Path]:
    yield place
    (place / "config.yaml").unlink(missing_ok=True)
    write_policy(place, origin)
    eventually(lambda: leftovers(images, place) == [], 60, f"the end of {leftovers(images, place)}")


def build(word: str) -> None:
    dockerfile = f"FROM {PYTHON_IMAGE}\nENV WORD={word}\n".encode()
    subprocess.run(["docker", "build", "--quiet", "--tag", REBUILT, "-"], input=dockerfile, check=True, timeout=100)


def run(engine: Engine, workspace: Path, *command: str, options: Sequence[str] = (), before: Sequence[str] = ()) -> Ran:
    """The container's id, and what the command printed in it."""
    script = ["--", "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; "$@"; cat', "sh"]
    line = [*before, *words(workspace, *options, TOOL), *script, *command]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        found = inspected(engine, process)
        said, _ = process.communicate(b"", 60)
    assert process.returncode == 0
    return str(found["Id"]), said.decode().strip()


def company(workspace: Path) -> str:
    """Another CA, in the file of the same name."""
    pem = trustme.CA().cert_pem.bytes().decode()
    (workspace / "company.pem").write_text(pem)
    return pem


@pytest.mark.docker
def test_an_image_that_was_built_again(workspace: Path, images: Engine) -> None:
    build("old")
    ready = warm_up(images, workspace, "--image", REBUILT, TOOL)
    build("new")
    container, said = run(images, workspace, "sh", "-c", "echo $WORD", options=("--image", REBUILT))
    assert (container == ready, said) == (False, "new")


@pytest.mark.docker
def test_a_private_ca_whose_file_was_replaced(workspace: Path, images: Engine) -> None:
    old = company(workspace)
    (workspace / "config.yaml").write_text("sandbox: {ca_files: [company.pem]}\n")
    ready = warm_up(images, workspace, TOOL)
    new = company(workspace)
    container, said = run(images, workspace, "python3", "-c", COUNT, new)
    assert (container == ready, said) == (False, "1")
    assert run(images, workspace, "python3", "-c", COUNT, old)[1] == "0"


@pytest.mark.docker
def test_a_private_ca_that_was_not_there_before(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    new = company(workspace)
    (workspace / "config.yaml").write_text("sandbox: {ca_files: [company.pem]}\n")
    container, said = run(images, workspace, "python3", "-c", COUNT, new)
    assert (container == ready, said) == (False, "1")


@pytest.mark.docker
def test_a_rule_that_opens_tls_since(workspace: Path, images: Engine) -> None:
    """Its clients have to trust the workspace's CA from now on."""
    ready = warm_up(images, workspace, TOOL)
    (workspace / "policy.yaml").write_text(
        f"version: 1\ntools:\n  {TOOL}:\n    allow: [{{host: a.example.com, methods: [GET]}}]\n"
    )
    listed = [sys.executable, "-m", "cloned_proxy", "list", "--workspace", str(workspace), "--tool", TOOL]
    eventually(
        lambda: b"a.example.com" in subprocess.run(listed, capture_output=True, check=True, timeout=60).stdout,
        60,
        "the new policy",
    )
    container, said = run(images, workspace, "sh", "-c", 'test -s "$SSL_CERT_FILE" && echo trusted')
    assert (container == ready, said) == (False, "trusted")


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of mounts")
def test_whoever_sees_other_mounts_runs_it_alone(workspace: Path, images: Engine) -> None:
    """Paths that were checked here may lead elsewhere there."""
    ready = warm_up(images, workspace, TOOL)
    container, _ = run(images, workspace, "true", before=["unshare", "--mount"])
    assert (container == ready, ready in waiting(images, workspace)) == (False, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's id")
def test_a_command_is_handed_to_nobody_else_by_sudo(tmp_path: Path) -> None:
    """Root comes to the socket of a user's process: that one would get root's variables, and decide what root sees."""
    path = tmp_path.joinpath(*SOCKET)
    path.parent.mkdir()
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.bind(sys.argv[1])\n"
        "os.setuid(int(sys.argv[2]))\n"
        "s.listen(); print('ready', flush=True)\n"
        "c, _ = s.accept()\n"
        "try: c.send(b'hello'); print(len(c.recv(100)), flush=True)\n"
        "except ConnectionError: print(0, flush=True)\n"
    )
    for user, taken in (("65534", False), ("0", True)):
        with subprocess.Popen(
            [sys.executable, "-c", script, path, user], stdout=subprocess.PIPE, text=True
        ) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            environment = {**os.environ, "CLONED_WORKSPACE": str(tmp_path)}
            asked = "from cloned_proxy.cli.warm.client import passed_on; passed_on(['cloned-proxy', 'exec', '--', 'x'])"
            subprocess.run([sys.executable, "-c", asked], env=environment, check=True, timeout=60)
            assert (listener.stdout.readline() != "0\n") == taken
        path.unlink()


def test_nobody_of_this_user_listens_where_nobody_does(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*SOCKET)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        _connected(str(tmp_path)).close()
    with pytest.raises(ConnectionRefusedError):
        _connected(str(tmp_path))
