"""The fake internet itself: a proving ground that sees nothing proves nothing."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading

import pytest

from tests.net import zone
from tests.net.world import World

pytestmark = pytest.mark.net

ANYWHERE = [
    "93.184.216.10",
    "8.8.4.4",
    "169.254.169.254",
    "10.0.0.5",
    "100.64.0.7",
    "127.0.0.1",
    "240.0.0.1",
    "::1",
    "fd00::5",
    "::ffff:10.0.0.5",
    "64:ff9b::a00:5",
    "2002:a00:5::",
    "2606:2800:220:2::66",
]


@pytest.mark.parametrize("address", ANYWHERE)
def test_a_canary_answers_and_logs_on_every_address(fresh_world: World, address: str) -> None:
    marker = fresh_world.marker()
    with fresh_world.connect(address, 80) as connection:
        connection.sendall(f"GET /{marker} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"200 OK" in answer
    logged = address.removeprefix("::ffff:")
    assert fresh_world.saw(marker) == [(logged, 80)]
    assert fresh_world.bytes_at(logged, 80) > len(marker)
    assert marker in fresh_world.text_at(logged, 80)


def test_a_tls_canary_logs_what_tls_carries_and_is_trusted(fresh_world: World) -> None:
    marker = fresh_world.marker()
    context = ssl.create_default_context(cafile=fresh_world.certificate)
    with (
        fresh_world.connect("api.example.com", 443) as raw,
        context.wrap_socket(raw, server_hostname="api.example.com") as connection,
    ):
        connection.sendall(f"GET /{marker} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200 OK" in connection.recv(4096)
    assert [port for _, port in fresh_world.saw(marker)] == [443]


def test_bytes_that_are_not_tls_are_logged_on_a_tls_port(fresh_world: World) -> None:
    marker = fresh_world.marker()
    with fresh_world.connect("8.8.8.8", 443) as connection:
        connection.sendall(marker.encode())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)
    assert fresh_world.saw(marker) == [("8.8.8.8", 443)]


def test_a_bad_certificate_is_not_trusted(fresh_world: World) -> None:
    context = ssl.create_default_context(cafile=fresh_world.certificate)
    with (
        fresh_world.connect("bad-certificate.example.com", 443) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(raw, server_hostname="bad-certificate.example.com")


LOOKUP = """
import json, socket, sys
try:
    found = sorted({entry[4][0] for entry in socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)})
except socket.gaierror as error:
    found = str(error)
print(json.dumps(found))
"""


def look_up(world: World, name: str) -> list[str]:
    done = world.run([sys.executable, "-c", LOOKUP, name])
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("api.example.com", zone.API),
        ("nobody-registered-this.com", zone.ELSEWHERE),
        ("mixed.example.com", ("10.0.0.5", "93.184.216.10")),
        ("alias.example.com", ("10.0.0.5",)),
        ("metadata.example.com", ("169.254.169.254",)),
        ("sixtofour.example.com", ("2002:a00:5::",)),
    ],
)
def test_names_resolve_as_the_zone_says_and_are_logged(
    fresh_world: World, name: str, addresses: tuple[str, ...]
) -> None:
    assert look_up(fresh_world, name) == sorted(addresses)
    assert name in fresh_world.dns_names()


def test_a_rebinding_name_changes_its_mind(fresh_world: World) -> None:
    assert look_up(fresh_world, "rebind.example.com") == ["93.184.216.10"]
    assert look_up(fresh_world, "rebind.example.com") == ["10.0.0.5"]


@pytest.mark.parametrize("name", ["absent.example.com", "broken.example.com"])
def test_a_failing_name_fails(fresh_world: World, name: str) -> None:
    assert isinstance(look_up(fresh_world, name), str)
    assert name in fresh_world.dns_names()


def test_nothing_of_the_host_is_visible_inside(fresh_world: World) -> None:
    """A service on the host's loopback is not the namespace's loopback, and there is no other interface."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        accepted = threading.Event()
        service.settimeout(0.2)
        with pytest.raises(ConnectionRefusedError):
            fresh_world.connect("127.0.0.1", service.getsockname()[1])
        assert not accepted.is_set()
    links = fresh_world.run(["ip", "-brief", "link"]).stdout.split("\n")
    assert [line.split()[0] for line in links if line] == ["lo"]


def test_a_world_leaves_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    if sys.platform != "linux":
        pytest.skip("namespaces are a Linux thing")
    second = World(tmp_path_factory.mktemp("second") / "w")
    second.spawn(["sleep", "100"])
    assert second.stop() == []
    assert not second.directory.exists()
