"""What `doctor` says of the proxy in front."""

from __future__ import annotations

import ipaddress
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloned_proxy.cli.commands.doctor import upstream_check as checking
from cloned_proxy.cli.commands.status import overview
from cloned_proxy.store.workspaces.workspace import Workspace


def checked(directory: Path, place: str) -> tuple[str, str]:
    (directory / "config.yaml").write_text(f"upstream: {{proxy: 'http://{place}'}}\n")
    found = checking.upstream_check(Workspace(directory))
    return found.status, found.detail


def test_one_that_takes_its_time_is_not_called_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squid looks up the name that it is asked about, and some name servers are slow."""
    monkeypatch.setattr(checking, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        status, detail = checked(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}")
    assert (status, "takes connections" in detail, "nothing gets out" in detail) == ("warn", True, False)


def test_one_whose_name_servers_are_silent_answers_all_the_same(tmp_path: Path) -> None:
    """A stand-in of Squid: what has a name is looked up first, which may take for ever; an address is not."""
    asked = []

    def squid(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as lines:
            target = lines.readline().split()[1].decode()
            asked.append(target)
            ipaddress.ip_address(urlsplit(target).hostname or "")  # else silence
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=squid, args=(listening,))
        answering.start()
        status, detail = checked(tmp_path, f"127.0.0.1:{listening.getsockname()[1]}")
        answering.join()
    assert (status, "answers" in detail) == ("ok", True), asked


def test_one_that_nobody_is_at_is(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        status, detail = checked(tmp_path, f"127.0.0.1:{free.getsockname()[1]}")
    assert (status, "nothing gets out" in detail) == ("fail", True)


def test_a_pac_file_is_not_said_to_answer(tmp_path: Path) -> None:
    """It names proxies, of which none was asked."""
    (tmp_path / "proxy.pac").write_text("function FindProxyForURL(url, host) { return 'PROXY 127.0.0.1:1'; }")
    (tmp_path / "config.yaml").write_text("upstream: {pac: proxy.pac}\n")
    place = Workspace(tmp_path)
    found = checking.upstream_check(place)
    assert (found.status, "answers" in found.detail, "is read" in found.detail) == ("ok", False, True)
    (line,) = [line for line in overview.lines(overview.look(place, None)) if line.startswith("upstream")]
    assert ("answers" in line, "is read" in line) == (False, True)
