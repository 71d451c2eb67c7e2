from __future__ import annotations

import errno
import ipaddress
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloned_proxy.proxy.transport.listener import BindError, OwnListeners, bind_tcp, bind_unix


def test_a_port_in_use_is_told_with_its_fix() -> None:
    with closing(bind_tcp("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(BindError, match=rf"127\.0\.0\.1:{port} is in use; .*choose another port"):
            bind_tcp("127.0.0.1", port)


def test_a_name_that_is_no_address_here_is_told() -> None:
    with pytest.raises(BindError, match=r"not an address of this machine|cannot be opened"):
        bind_tcp("192.0.2.1", 0)


def test_a_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    with closing(bind_unix(tmp_path / "s")):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path).close()
    assert path.exists()
    with closing(bind_unix(path)), pytest.raises(BindError, match="in use by another process"):
        bind_unix(path)


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match="not a socket"):
        bind_unix(path)
    assert path.read_text() == "precious"


@pytest.fixture
def bound() -> Iterator[tuple[OwnListeners, int]]:
    own = OwnListeners()
    with closing(bind_tcp("127.0.0.1", 0)) as sock:
        own.add(sock)
        yield own, sock.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "reached"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("::", True), ("127.0.0.2", False),
     ("::1", False), ("192.0.2.1", False)],
)  # fmt: skip
def test_which_addresses_reach_a_listener(bound: tuple[OwnListeners, int], address: str, reached: bool) -> None:
    own, port = bound
    assert ((ipaddress.ip_address(address), port) in own) is reached
    assert (ipaddress.ip_address(address), port + 1) not in own


@pytest.mark.parametrize(
    ("address", "reached"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("0.0.0.0", True), ("::ffff:127.0.0.1", True), ("192.0.2.1", False)],
)
def test_a_wildcard_listener_is_reached_at_every_address_of_this_machine(address: str, reached: bool) -> None:
    own = OwnListeners()
    with closing(bind_tcp("0.0.0.0", 0)) as sock:
        own.add(sock)
        port = sock.getsockname()[1]
        assert ((ipaddress.ip_address(address), port) in own) is reached
        assert (ipaddress.ip_address(address), port + 1) not in own


def test_unix_sockets_are_no_destination(tmp_path: Path) -> None:
    own = OwnListeners()
    with closing(bind_unix(tmp_path / "s")) as sock:
        own.add(sock)
    assert sock.family == socket.AF_UNIX


def test_without_a_descriptor_to_find_out_an_address_is_taken_for_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnListeners()
    own.add_address("0.0.0.0", 8081)
    elsewhere = ipaddress.ip_address("203.0.113.7")
    assert (elsewhere, 8081) not in own

    def exhausted(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "socket", exhausted)
    assert (elsewhere, 8081) in own
    assert (elsewhere, 8082) not in own
