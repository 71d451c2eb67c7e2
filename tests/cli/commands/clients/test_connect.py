"""`connect HOST PORT`, and the program of the worker's image that does the work: bytes, ends, exit codes, words."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloned_proxy.share import share_path
from tests.cli.program import PROGRAM, TOOL, Serving, Workspace, eventually
from tests.free_port import free_port

SCRIPT = share_path("sandbox", "worker", "connect.py")
BLOB = os.urandom(1 << 20) * 12
"""More than all buffers between the two ends hold."""


class Peer:
    """A server on loopback whose connections are `behave`'s."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.accepted = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._behave = behave
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            with connection, contextlib.suppress(OSError):
                self._behave(connection)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # closed alone it would be accepted from for ever
        self._listening.close()


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def answers_when_all_is_there(connection: socket.socket) -> None:
    connection.sendall(b"%d bytes" % len(all_of(connection)))


AFTER_ITS_END: list[int] = []
"""Bytes that came to a server that had ended its own direction."""


def ends_first(connection: socket.socket) -> None:
    connection.sendall(b"goodbye")
    connection.shutdown(socket.SHUT_WR)
    AFTER_ITS_END.append(len(all_of(connection)))


def resets(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


type Peers = dict[Callable[[socket.socket], None], Peer]
BEHAVIOURS: tuple[Callable[[socket.socket], None], ...] = (echo, answers_when_all_is_there, ends_first, resets)


@pytest.fixture
def peers() -> Iterator[Peers]:
    found: Peers = {behave: Peer(behave) for behave in BEHAVIOURS}
    yield found
    for peer in found.values():
        peer.close()


@pytest.fixture
def serving(workspace: Workspace, peers: Peers) -> Serving:
    ports = ", ".join(str(peer.port) for peer in peers.values())
    workspace.write_policy(
        "version: 1\nanonymous: deny\ntools:\n"
        f"  {TOOL}: {{allow: [{{host: 127.0.0.1, ports: [{ports}], protocols: [tcp]}}]}}\n"
    )
    return workspace.serve()


def connect(workspace: Workspace, *words: str, given: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [PROGRAM, "connect", *words],
        input=given, env=workspace.environment | env, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


def test_bytes_pass_both_ways_and_each_end_by_itself(workspace: Workspace, serving: Serving, peers: Peers) -> None:
    def through(behave: Callable[[socket.socket], None], given: bytes) -> subprocess.CompletedProcess[bytes]:
        return connect(workspace, "--tool", TOOL, "127.0.0.1", str(peers[behave].port), given=given)

    echoed = through(echo, BLOB)
    assert (echoed.returncode, echoed.stderr) == (0, b"")
    assert echoed.stdout == BLOB
    answered = through(answers_when_all_is_there, BLOB)
    assert (answered.returncode, answered.stdout) == (0, b"%d bytes" % len(BLOB))
    ended = through(ends_first, BLOB)
    assert (ended.returncode, ended.stdout) == (0, b"goodbye")
    eventually(lambda: AFTER_ITS_END, seconds=60, what="the end of the client's direction")
    assert [len(BLOB)] == AFTER_ITS_END
    cut = through(resets, b"x")
    assert (cut.returncode, cut.stdout) == (1, b"")
    assert b"the connection was cut" in cut.stderr
    assert serving.process.poll() is None


def test_who_asks_is_the_tool_or_whose_credential_is_exported(
    workspace: Workspace, serving: Serving, peers: Peers
) -> None:
    place = ("127.0.0.1", str(peers[echo].port))
    nobody = connect(workspace, *place)
    assert nobody.returncode == 1
    assert (
        b"cloned-proxy: 127.0.0.1:%s: identity_missing: send the tool's credential" % place[1].encode() in nobody.stderr
    )
    exported = dict(line.split("=", 1) for line in workspace.run("token", TOOL).stdout.splitlines())
    assert connect(workspace, *place, given=b"x", HTTPS_PROXY=exported["HTTPS_PROXY"]).stdout == b"x"
    # Another proxy, such as a company's, is none of ours.
    elsewhere = connect(workspace, *place, HTTPS_PROXY="http://user:secret@127.0.0.1:9")
    assert b"identity_missing" in elsewhere.stderr
    other = connect(workspace, "--tool", "other@v1", *place)
    assert (other.returncode, other.stdout) == (1, b"")
    assert b"cloned-proxy allow 127.0.0.1:%s --tool other@v1" % place[1].encode() in other.stderr
    unreachable = connect(workspace, "--tool", TOOL, "127.0.0.1", str(serving.port))
    assert unreachable.returncode == 1
    assert peers[echo].accepted == 1


def test_the_reader_may_go_and_ctrl_c_ends_it(workspace: Workspace, serving: Serving, peers: Peers) -> None:
    command = [str(PROGRAM), "connect", "--tool", TOOL, "127.0.0.1", str(peers[echo].port)]
    for how in ("reader", "signal"):
        process = subprocess.Popen(
            command, env=workspace.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"
        if how == "signal":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
            process.stdin.write(BLOB[:100])
            process.stdin.flush()
        assert process.wait(60) in (1, 130)
        assert process.stderr.read() == b""
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def script(*words: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, *words],
        env=environment, input="", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "usage: cloned-connect"),
        (("git.example.com",), 2, "PORT"),
        (("git.example.com", "ssh"), 2, "invalid int"),
        (("git.example.com", "0"), 2, "no port"),
        (("git.example.com", "65536"), 2, "no port"),
        (("a\r\nX: y", "22"), 2, "no host"),
        (("caf\xe9.example", "22"), 2, "xn--"),
        (("git.example.com", "22"), 1, "git.example.com:22: no proxy is set in HTTPS_PROXY"),
        (("--help",), 0, ""),
    ],
)
def test_words_that_are_wrong_are_said(words: tuple[str, ...], code: int, said: str) -> None:
    status, told = script(*words)
    assert (status, said in told) == (code, True), told


ANSWERS = {
    "none": (b"", "closed the connection without an answer"),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", "is no HTTP proxy"),
    "not ours": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", "the proxy answers 403 Forbidden"),
    "its failure": (b'HTTP/1.1 502 Bad Gateway\r\n\r\n{"error":"upstream_unreachable","phase":"connect"}',
                    "upstream_unreachable: connect"),
    "endless": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "closed the connection without an answer"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_the_proxy_answers_is_told(answer: bytes, said: str) -> None:
    def proxy(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        all_of(connection)

    peer = Peer(proxy)
    status, told = script("a.example", "22", HTTPS_PROXY=f"http://127.0.0.1:{peer.port}")
    peer.close()
    assert (status, said in told) == (1, True), told


def test_a_proxy_that_is_not_there_and_one_that_is_none() -> None:
    port = free_port()
    status, told = script("a.example", "22", HTTPS_PROXY=f"http://127.0.0.1:{port}")
    assert (status, f"no proxy answers at 127.0.0.1:{port}" in told) == (1, True)
    for url in ("socks5://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1", "http://127.0.0.1:x"):
        assert script("a.example", "22", HTTPS_PROXY=url) == (
            1,
            "cloned-connect: a.example:22: HTTPS_PROXY is not http://HOST:PORT\n",
        )


def test_what_it_sends_is_the_target_and_the_decoded_credential() -> None:
    heads: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heads.append(connection.recv(4096))

    peer = Peer(proxy)
    script("2001:db8::1", "22", HTTPS_PROXY=f"http://demo%40v1:to.ken@127.0.0.1:{peer.port}")
    eventually(lambda: heads, what="the head")
    peer.close()
    head = b"CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n"
    assert heads == [head + b"Proxy-Authorization: Basic ZGVtb0B2MTp0by5rZW4=\r\n\r\n"]


def test_it_needs_a_proxy_that_serves(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy("version: 1\n")
    done = connect(workspace, "a.example", "22")
    assert (done.returncode, b"no proxy serves" in done.stderr) == (1, True)
    assert (
        connect(workspace, "--tool", "no tool", "a.example", "22", CLONED_EGRESS_PROXY="http://127.0.0.1:9").returncode
        == 2
    )
    assert connect(workspace, "a.example", "70000").returncode == 2


def test_outside_a_workspace_it_names_no_other_one(workspace: Workspace, serving: Serving, tmp_path: Path) -> None:
    """As a ProxyCommand it may run for whoever can start ssh here."""
    done = connect(workspace, "--workspace", str(tmp_path / "none"), "a.example", "22")
    assert done.returncode == 2
    assert b"there is no workspace here" in done.stderr
    assert b"serves" not in done.stderr
    assert str(workspace.path).encode() not in done.stderr
