"""One attempt to get bytes out: what an attack may use, and what counts as success.

An attack succeeds when its marker reaches any canary, when a place it must not reach is connected to, or when a name
it must not reveal is asked for. What the proxy answered does not matter.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.net import zone
from tests.net.proxy_process import ProxyProcess
from tests.net.world import World

PATIENCE: Final = 2.0
"""Seconds to wait for an answer: more than the proxy's own timeouts in these tests."""
_MUST_SUCCEED_WITHIN: Final = 30.0


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to try. `act` may return a sentence when it got what no canary can see, such as the proxy's metrics."""

    name: str
    act: Callable[[Attempt], str | None]
    contacts: tuple[tuple[str, int], ...] = ()
    """(host or address, port) that nothing may connect to."""
    names: tuple[str, ...] = ()
    """Names that must not be asked for."""
    policy: str = "base"
    marker_is_leak: bool = True
    """False where the marker may arrive, and only contacts and names count."""
    paths: tuple[str, ...] = ("gate", "inspected")
    """The paths of the proxy on which it makes sense: a closed tunnel, and one whose TLS the proxy opens."""


class Attempt:
    """An attack in progress against one proxy."""

    def __init__(self, world: World, proxy: ProxyProcess, patience: float = PATIENCE) -> None:
        self.world = world
        self.proxy = proxy
        self.patience = patience
        self.marker = world.marker()

    # What an attack may do ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with self.proxy.connect() as connection:
            connection.settimeout(self.patience)
            yield connection

    def send(self, *parts: bytes, wait_for: bytes = b"") -> bytes:
        """Sends bytes on a connection of its own, all of them, and reads until the proxy closes or falls silent.

        With `wait_for`, the second and later parts are sent when an answer with these bytes has come.
        """
        answer = b""
        with self.connection() as connection:
            for part in parts:
                connection.sendall(part)
                if wait_for and part is not parts[-1]:
                    answer += read_some(connection)
                    if wait_for not in answer:
                        return answer
            return answer + read_all(connection)

    def get(self, host: str, port: int | str = 80, headers: Mapping[str, str] | None = None) -> bytes:
        """Plain HTTP in absolute form, with the marker in its path."""
        authority = host if port == 80 else f"{host}:{port}"
        lines = "".join(f"{key}: {value}\r\n" for key, value in {"Host": authority, **(headers or {})}.items())
        head = f"GET http://{authority}/{self.marker} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"
        return self.send(head.encode())

    @contextlib.contextmanager
    def tunnel(self, authority: str, headers: Mapping[str, str] | None = None) -> Iterator[socket.socket]:
        """A CONNECT that was answered 200; ConnectionRefusedError when it was not."""
        lines = "".join(f"{key}: {value}\r\n" for key, value in {"Host": authority, **(headers or {})}.items())
        with self.connection() as connection:
            connection.sendall(f"CONNECT {authority} HTTP/1.1\r\n{lines}\r\n".encode())
            answer = read_head(connection)
            if not re.match(rb"HTTP/1\.[01] 200 ", answer):
                raise ConnectionRefusedError(answer.decode("latin-1"))
            yield connection

    @contextlib.contextmanager
    def tls(
        self,
        authority: str,
        server_name: str | None,
        headers: Mapping[str, str] | None = None,
        protocol: str = "http/1.1",
    ) -> Iterator[ssl.SSLSocket]:
        """TLS inside a tunnel. Certificates are not looked at: an attacker does not care."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without roots, whose loading takes 20 ms
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([protocol])
        with (
            self.tunnel(authority, headers) as connection,
            context.wrap_socket(connection, server_hostname=server_name, suppress_ragged_eofs=True) as secure,
        ):
            secure.settimeout(self.patience)
            yield secure

    def fetch(self, host: str, port: int | str = 443, headers: Mapping[str, str] | None = None) -> bytes:
        """HTTPS through a tunnel, as a normal client does it, with the marker in the path."""
        with self.tls(f"{host}:{port}", server_name_of(host), headers) as secure:
            secure.sendall(f"GET /{self.marker} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return read_all(secure)

    # What came of it ------------------------------------------------------------------------------------------

    def carry_out(self, attack: Attack) -> list[str]:
        """Everything that got through: an empty list is a failed attack.

        Where the native plane is in front it is made three times: what Python has granted twice the plane may grant.
        """
        self.world.reset()
        said = None
        for _ in range(3 if self.proxy.native else 1):
            # A refusal may close the connection at any point of the attempt; only the judge below decides.
            with contextlib.suppress(OSError, ssl.SSLError, ValueError):
                said = attack.act(self) or said
        self.world.settle()
        leaks = [said] if said else []
        contacts = self.world.contacts(self.marker)
        if attack.marker_is_leak:
            leaks += [f"the marker arrived at {c.address}:{c.port}" for c in contacts if c.marker]
        for host, port in attack.contacts:
            places = zone.place(host)
            leaks += [
                f"{c.address}:{c.port} was connected to" for c in contacts if c.address in places and c.port == port
            ]
        asked = self.world.dns_names()
        leaks += [f"{name} was asked for" for name in attack.names if name in asked]
        return leaks


def gets_out(attack: Callable[[], object], *, must: bool = True) -> bool:
    """Whether an attack succeeds. Where it must, one that a busy machine has spoiled is made again, for 30 seconds.

    Against our own build it is made once, and nothing excuses it.
    """
    deadline = time.monotonic() + _MUST_SUCCEED_WITHIN
    while True:
        last = not must or time.monotonic() > deadline
        try:
            if attack():
                return True
        except OSError:
            if last:
                raise
        if last:
            return False
        time.sleep(0.05)


def gets_through(world: World, proxy: ProxyProcess, attack: Attack, seconds: Sequence[float] = (0.5, 30.0)) -> bool:
    """As `gets_out`: with little patience at first, and then for a busy machine."""
    patience = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    return gets_out(lambda: Attempt(world, proxy, next(patience)).carry_out(attack))


def permitted_call_passes(world: World, proxy: ProxyProcess, *, must: bool = True) -> bool:
    """The benign control: the same proxy, at this moment, lets an allowed call through, over both paths.

    Where it must, it is made again on a busy machine, as in `gets_out`: the proxies of these tests are impatient.
    """
    patience = itertools.chain([PATIENCE], itertools.repeat(30.0))
    return gets_out(lambda: _permitted_call_passes(world, proxy, next(patience)), must=must)


def _permitted_call_passes(world: World, proxy: ProxyProcess, patience: float) -> bool:
    attempt = Attempt(world, proxy, patience)
    headers = proxy_authorization("control@v1", proxy.token("control@v1"))
    with contextlib.suppress(OSError, ssl.SSLError):
        attempt.get("api.example.com", headers=headers)
        attempt.fetch("api.example.com", headers=headers)
    return sorted(port for _, port in world.saw(attempt.marker)) == [80, 443]


def proxy_authorization(tool: str, token: str) -> dict[str, str]:
    """The header that a client makes of `http://tool:token@proxy` (RFC 7617)."""
    pair = f"{urllib.parse.quote(tool, safe='')}:{token}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode()}


def server_name_of(host: str) -> str | None:
    """What a client puts into SNI; nothing for literals (RFC 6066, section 3)."""
    bare = host.strip("[]")
    return None if ":" in bare or bare.replace(".", "").isdigit() else bare.rstrip(".")


def read_head(connection: socket.socket) -> bytes:
    """One response head, byte by byte: what follows it belongs to the tunnel."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        data = connection.recv(1)
        if not data:
            break
        head += data
    return bytes(head)


def read_some(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except OSError:
        return b""


def read_all(connection: socket.socket) -> bytes:
    """Until the other side closes or falls silent."""
    return b"".join(iter(lambda: read_some(connection), b""))
