"""The holder's forwarding, run on this host: what it does in a namespace is the other files' business."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.local.slot_sockets import check_inside
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE
from cloned_proxy.runner.namespaces.handing import SOCKET_NAME, HandingHolder, datagrams, listening, spare
from cloned_proxy.runner.values.errors import SlotError
from tests.cli.program import eventually

pytestmark = pytest.mark.docker

MORE_THAN_ALL = 300


@pytest.fixture
def holder(images: Engine, tmp_path: Path) -> Path:
    """The program out of its image."""
    container = _docker("create", HOLDER_IMAGE)
    try:
        _docker("cp", f"{container}:/holder", str(tmp_path / "holder"))
    finally:
        _docker("rm", container)
    return tmp_path / "holder"


def test_a_forward_that_is_full_takes_nothing_from_another(holder: Path, tmp_path: Path) -> None:
    """In the Compose stack, callers of the local model must not lock a person out of the control UI."""
    silent, talking = str(tmp_path / "silent"), str(tmp_path / "talking")
    with ExitStack() as stack:
        quiet = stack.enter_context(socket.socket(socket.AF_UNIX))
        quiet.bind(silent)
        quiet.listen(2 * MORE_THAN_ALL)
        greeter = stack.enter_context(socket.socket(socket.AF_UNIX))
        greeter.bind(talking)
        greeter.listen()
        threading.Thread(target=_greet, args=(greeter,), daemon=True).start()
        words = [str(holder), "forward", str(tmp_path / "1"), silent, str(tmp_path / "2"), talking]
        process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
        stack.callback(process.terminate)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert _asked(tmp_path / "2") == b"hello"
        for _ in range(MORE_THAN_ALL):
            stack.enter_context(_connected(tmp_path / "1"))
        eventually(lambda: _asked(tmp_path / "1", seconds=0.2) == b"", what="a connection over the share, closed")
        assert _asked(tmp_path / "2") == b"hello"


def test_it_hands_over_what_it_makes_in_its_namespace_and_says_what_it_cannot(holder: Path, tmp_path: Path) -> None:
    link = HandingHolder(tmp_path)
    words = ["unshare", "--net", "--map-root-user", str(holder), "hand", str(tmp_path / SOCKET_NAME)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        link.accept()
        stack.callback(link.close)
        made = link.get([listening(8081, "127.0.0.1"), listening(8080, "0.0.0.0"), datagrams(53), spare()])
        for each in made:
            check_inside(each)
            stack.callback(each.close)
        names = [("127.0.0.1", 8081), ("0.0.0.0", 8080), ("127.0.0.1", 53), ("0.0.0.0", 0)]
        assert [each.getsockname() for each in made] == names
        assert [each.type == socket.SOCK_DGRAM for each in made] == [False, False, True, False]
        with pytest.raises(SlotError, match=r"8081, 9000 cannot be opened inside the slot: Address.* in use"):
            link.get([listening(8081, "127.0.0.1"), listening(9000, "127.0.0.1")])
        for each in made:
            each.close()  # the holder kept none
        for each in link.get([listening(8081, "127.0.0.1"), listening(9000, "127.0.0.1")]):
            each.close()
        link.close()
        with pytest.raises(SlotError):
            link.get([spare()])
        assert process.poll() is None, "it holds its namespace whoever leaves"
        process.terminate()
        assert process.wait(60) == 0


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


def _greet(server: socket.socket) -> None:
    while True:
        try:
            caller, _ = server.accept()
        except OSError:  # the test has ended
            return
        with caller:
            caller.sendall(b"hello")


def _connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def _asked(path: Path, seconds: float = 60.0) -> bytes | None:
    """What comes from there; None for silence."""
    with _connected(path) as client:
        client.settimeout(seconds)
        try:
            return client.recv(10)
        except TimeoutError:
            return None
