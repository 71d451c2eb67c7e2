"""The load: raw protocols on uvloop, the same code against every contender."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from bench.wire import DENIED, HOST, trusting_context

_END: Final = b"\r\n\r\n"
_STALL_SECONDS: Final = 20.0
_TLS: Final = trusting_context()


@dataclass(slots=True)
class Load:
    """What the clients of one run share: how long they go on, and what they have done."""

    address: tuple[str, int]
    """Address of the proxy."""
    until: float
    """Monotonic seconds."""
    limit: int
    count: int = 0
    started: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)

    def begin(self) -> bool:
        """Takes one more piece of work; False when time or count is up."""
        if self.started >= self.limit or time.monotonic() >= self.until:
            return False
        self.started += 1
        return True

    def finished(self, since: float) -> None:
        self.count += 1
        self.latencies.append(time.monotonic() - since)


class Client(asyncio.Protocol):
    """One connection to the proxy; `done` is set when its work has ended, with whether it went well."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.since = time.monotonic()
        self.transport: asyncio.Transport
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.start()

    def start(self) -> None:
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self.end(well=False)

    def end(self, *, well: bool) -> None:
        if not self.done.done():
            self.done.set_result(well)

    def head(self, data: bytes, expected: bytes) -> bytes | None:
        """The rest behind the response head, once it is there; ends the work when the status is another."""
        self.received += data
        at = self.received.find(_END)
        if at < 0:
            return None
        if self.received[9:12] != expected:
            self.end(well=False)
            self.transport.abort()
            return None
        return self.received[at + 4 :]


class HttpClient(Client):
    """GETs one after another on one connection, for as long as the proxy keeps it."""

    port = 0

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._request = b""
        self._answered = 0

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered and not self.received and not self.done.done():
            # RFC 9112, section 9.3.1: closed without a word between two requests; the client asks again elsewhere.
            self.load.started -= 1
            self.end(well=True)
        super().connection_lost(exc)

    def start(self) -> None:
        request = f"GET http://{HOST}:{self.port}/ HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nUser-Agent: bench\r\n\r\n"
        self._request = request.encode()
        self._ask()

    def _ask(self) -> None:
        self.since = time.monotonic()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        rest = self.head(data, b"200")
        if rest is None or len(rest) < _length(self.received):
            return
        self.load.finished(self.since)
        self._answered += 1
        head = self.received[: len(self.received) - len(rest)].lower()
        self.received = b""
        # RFC 9112, section 9.3: HTTP/1.0 closes by default.
        if b"\r\nconnection: close" in head or head.startswith(b"http/1.0") or not self.load.begin():
            self.end(well=True)
            self.transport.close()
        else:
            self._ask()


def _length(head: bytes) -> int:
    lowered = head[: head.find(_END) + 2].lower()
    at = lowered.find(b"\r\ncontent-length:")
    return int(lowered[at + 17 : lowered.find(b"\r\n", at + 2)]) if at >= 0 else 0


def connect_head(target: str, fields: str = "") -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n".encode()


class Tunnel(Client):
    """CONNECT, the first bytes of a client, and the first bytes of the answer through the tunnel."""

    port = 0
    first = b""
    """What the client says first: a ClientHello."""
    wanted = 1
    """Bytes to receive through the tunnel."""
    asks = True
    """False: it is connected to the upstream itself."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._open = False
        self.arrived = 0

    def start(self) -> None:
        if self.asks:
            self.transport.write(connect_head(self.target()))
        else:
            self._open = True
            self.transport.write(self.first)

    def target(self) -> str:
        return f"{HOST}:{self.port}"

    def data_received(self, data: bytes) -> None:
        if not self._open:
            rest = self.head(data, b"200")
            if rest is None:
                return
            self._open = True
            self.transport.write(self.first)
            data = rest
        if data:
            self.arrived += len(data)
            if self.arrived >= self.wanted and not self.done.done():
                self.load.finished(self.since)
                self.complete()

    def complete(self) -> None:
        self.end(well=True)
        self.transport.abort()


class IdleTunnel(Tunnel):
    """Stays open when it is set up."""

    def complete(self) -> None:
        self.end(well=True)


class TlsTunnel(Client):
    """CONNECT, a whole TLS handshake and one request and response in it."""

    port = 0
    asks = True
    """As for `Tunnel`."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session: ssl.SSLObject | None = None
        self._shaken = False

    def start(self) -> None:
        if self.asks:
            self.transport.write(connect_head(f"{HOST}:{self.port}"))
        else:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        if self._session is None:
            rest = self.head(data, b"200") if self.asks else data
            if rest is None:
                return
            self._session = _TLS.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
            data = rest
        if data:
            self._incoming.write(data)
        answered = False
        try:
            if not self._shaken:
                self._session.do_handshake()
                self._shaken = True
                self._session.write(f"GET / HTTP/1.1\r\nHost: {HOST}:{self.port}\r\n\r\n".encode())
            answered = bool(self._session.read(65_536))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.end(well=False)
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())
        if answered and not self.done.done():
            self.load.finished(self.since)
            self.end(well=True)
            self.transport.abort()


class Denied(Client):
    """A CONNECT that must be refused."""

    def start(self) -> None:
        self.transport.write(connect_head(f"{DENIED}:443"))

    def data_received(self, data: bytes) -> None:
        rest = self.head(data, b"403")
        if rest is not None and len(rest) >= _length(self.received):
            if not self.done.done():
                self.load.finished(self.since)
            self.end(well=True)
            self.transport.abort()


type MakeClient = Callable[[Load], Client]


async def one_after_another(load: Load, make: MakeClient) -> None:
    """One client: connections one after another until the load is done."""
    while load.begin():
        if await connect(load, make) is None:
            load.errors += 1


async def connect(load: Load, make: MakeClient) -> Client | None:
    """One connection with its work; None when it failed or stalled."""
    client = make(load)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_STALL_SECONDS):
            await loop.create_connection(lambda: client, *load.address)
            if await client.done:
                return client
    if hasattr(client, "transport"):
        client.transport.abort()
    return None


async def drive(load: Load, make: MakeClient, clients: int) -> None:
    """`clients` at once, until the load is done."""
    await asyncio.gather(*(one_after_another(load, make) for _ in range(clients)))
