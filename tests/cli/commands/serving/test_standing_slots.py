"""`serve --slot`: a unix socket is a tool's identity, for sandboxes that nobody starts through the engine."""

from __future__ import annotations

import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.cli.program import TOOL, Origin, Workspace, literal, policy_text

OTHER = "other.tool@v1"


def ask(place: Path, url: str, *headers: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(60)
        sock.connect(str(place))
        fields = "".join(f"{header}\r\n" for header in headers)
        host = url.split("/")[2]
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n".encode())
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return answer.decode()


def test_the_socket_is_the_identity_and_no_header_changes_it(
    workspace: Workspace, origin: Origin, tmp_path: Path
) -> None:
    workspace.write_policy(policy_text(tool_allow=[literal(origin)]) + f"  {OTHER}: {{allow: []}}\n")
    mine, others = tmp_path / "mine.sock", tmp_path / "others.sock"
    serving = workspace.serve("--slot", f"{TOOL}={mine}", "--slot", f"{OTHER}={others}")
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600

    assert ask(mine, origin.url()).startswith("HTTP/1.1 200")
    refused = ask(others, origin.url())
    assert refused.startswith("HTTP/1.1 403"), refused
    assert f'"tool":"{OTHER}"' in refused
    assert serving.get(origin.url()).status == 403  # the host listener has gained nothing
    credential = f"Proxy-Authorization: Bearer {workspace.json('token', TOOL)['token']}"
    assert "X-Cloned-Proxy-Reason: identity_mismatch" in ask(others, origin.url(), credential)
    assert len(origin.seen) == 1

    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert not mine.exists()


def test_a_killed_proxy_leaves_a_socket_that_the_next_one_replaces(
    workspace: Workspace, origin: Origin, tmp_path: Path
) -> None:
    workspace.write_policy(policy_text(tool_allow=[literal(origin)]))
    place = tmp_path / "s.sock"
    first = workspace.serve("--slot", f"{TOOL}={place}")
    first.signal(signal.SIGKILL)
    first.wait()
    assert place.is_socket()
    workspace.serve("--slot", f"{TOOL}={place}", "--workers", "2")
    assert ask(place, origin.url()).startswith("HTTP/1.1 200")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TOOL, "write TOOL=SOCKET"),
        ("=/tmp/x.sock", "is not a tool id"),
        (f"{TOOL}=/nowhere/x.sock", "/nowhere is no directory"),
    ],
)
def test_a_slot_that_cannot_be_opened_is_told_before_anything_listens(
    workspace: Workspace, text: str, told: str
) -> None:
    done = workspace.run("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off", "--slot", text)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
