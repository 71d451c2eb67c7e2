"""The server names of a TLS ClientHello, read from any number of records and segments (RFC 8446, RFC 6066): pure.

Only what every TLS server would read the same way counts. Anything else is not TLS, and a tunnel that must carry TLS
is closed: a reader that shrugs at a malformed hello lets a caller show one name here and another one upstream.
An encrypted ClientHello (ECH) shows its outer name only. A server that can decrypt it goes by the inner one, which
nobody else can read: whoever is allowed to reach a host by its outer name is allowed what it serves behind that.
"""

from __future__ import annotations

import enum
from typing import Final

MAX_HELLO_BYTES: Final = 16_384
"""Records included. Browsers with post-quantum key shares send about 2 kB."""

_RECORD_HEADER: Final = 5
_HANDSHAKE_HEADER: Final = 4
_EXTENSION_HEADER: Final = 4
_HANDSHAKE: Final = 22  # RFC 8446, section 5.1
_CLIENT_HELLO: Final = 1  # RFC 8446, section 4
_SSL_3_MAJOR: Final = 3  # the first version byte of SSL 3.0 and of every TLS
_MAX_MINOR: Final = 4
_SERVER_NAME: Final = 0  # RFC 6066, section 3: the extension, and its only name type
_HOST_NAME: Final = 0
_ALPN: Final = 16  # RFC 7301, section 3.1
_RANDOM_BYTES: Final = 32
_MAX_SESSION_ID: Final = 32


class Unread(enum.Enum):
    """Why there are no server names to tell (yet)."""

    NEED_MORE = "need_more"
    NOT_TLS = "not_tls"
    SSH = "ssh"
    """Both sides have identified themselves as SSH, which the rule wants."""


type ServerNames = tuple[str, ...]
"""Every host name of every server_name extension, as sent: none, one, or an attempt to be ambiguous."""


class ClientHelloReader:
    """Fed with the bytes of a tunnel as they come; the outcome does not depend on how they were cut."""

    __slots__ = ("_at", "_bytes", "_message", "_outcome")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._at = 0
        self._message = bytearray()
        self._outcome: ServerNames | Unread = Unread.NEED_MORE

    @property
    def received(self) -> bytearray:
        """All bytes that it was fed with before its outcome, and with it."""
        return self._bytes

    @property
    def end(self) -> int:
        """How many of them are records of the hello, once its names are told."""
        return self._at

    @property
    def protocols(self) -> tuple[bytes, ...]:
        """What the client offers to speak (ALPN), once its names are told; none where the offer cannot be read."""
        try:
            return _protocols(bytes(self._message[_HANDSHAKE_HEADER:]))
        except (_MalformedError, IndexError):
            return ()

    def feed(self, segment: bytes | bytearray | memoryview) -> ServerNames | Unread:
        """The outcome after `segment`; once it is not NEED_MORE it stays."""
        if self._outcome is Unread.NEED_MORE:
            self._bytes += segment
            try:
                self._outcome = self._read_records()
            except _MalformedError:
                self._outcome = Unread.NOT_TLS
        return self._outcome

    def _read_records(self) -> ServerNames | Unread:
        while True:
            data, at = self._bytes, self._at
            start = at + _RECORD_HEADER
            _check_record_header(data[at:start])
            if len(data) < start:
                return Unread.NEED_MORE
            end = start + (data[at + 3] << 8 | data[at + 4])
            # RFC 8446, section 5.1: no empty handshake records.
            _require(start < end <= MAX_HELLO_BYTES)
            if len(data) < end:
                return Unread.NEED_MORE
            self._message += data[start:end]
            self._at = end
            if (names := self._read_message()) is not None:
                return names

    def _read_message(self) -> ServerNames | None:
        """The names, once the records so far hold the whole message."""
        message = self._message
        _require(message[0] == _CLIENT_HELLO)
        if len(message) < _HANDSHAKE_HEADER:
            return None
        end = _HANDSHAKE_HEADER + int.from_bytes(message[1:4])
        _require(end <= MAX_HELLO_BYTES)
        if len(message) < end:
            return None
        # A second handshake message in the same record cannot be: the client has nothing to say before the answer.
        _require(len(message) == end)
        return _server_names(bytes(message[_HANDSHAKE_HEADER:]))


class _MalformedError(Exception):
    pass


def _require(condition: bool) -> None:
    if not condition:
        raise _MalformedError


def _check_record_header(header: bytearray) -> None:
    """Looks at as many of the header's bytes as there are, so that other protocols are told at their first byte."""
    _require(
        (len(header) < 1 or header[0] == _HANDSHAKE)
        and (len(header) < 2 or header[1] == _SSL_3_MAJOR)  # noqa: PLR2004  offsets of the record header
        and (len(header) < 3 or header[2] <= _MAX_MINOR)  # noqa: PLR2004
    )


def _server_names(data: bytes) -> ServerNames:
    """RFC 8446, section 4.1.2. Plain indices: this is read once for each tunnel, and only one extension counts."""
    end = len(data)
    at = 2 + _RANDOM_BYTES
    _require(at < end and data[0] == _SSL_3_MAJOR and data[at] <= _MAX_SESSION_ID)
    at += 1 + data[at]
    _require(at + 2 <= end)
    suites = data[at] << 8 | data[at + 1]
    at += 2 + suites
    _require(suites > 0 and suites % 2 == 0 and at < end)
    compressions = data[at]
    at += 1 + compressions
    _require(compressions > 0 and at <= end)
    if at == end:  # RFC 5246, section 7.4.1.2: before TLS 1.3, extensions may be missing altogether
        return ()
    _require(at + 2 <= end and at + 2 + (data[at] << 8 | data[at + 1]) == end)
    names: list[str] = []
    at += 2
    while at < end:
        start = at + _EXTENSION_HEADER
        _require(start <= end)
        kind = data[at] << 8 | data[at + 1]
        at = start + (data[at + 2] << 8 | data[at + 3])
        _require(at <= end)
        if kind == _SERVER_NAME:
            names += _host_names(data, start, at)
    return tuple(names)


def _host_names(data: bytes, at: int, end: int) -> list[str]:
    """RFC 6066, section 3: one list of (type, name), and nothing behind it."""
    _require(at + 2 < end and at + 2 + (data[at] << 8 | data[at + 1]) == end)
    at += 2
    names: list[str] = []
    while at < end:
        start = at + 3
        _require(start < end and data[at] == _HOST_NAME)
        at = start + (data[at + 1] << 8 | data[at + 2])
        name = data[start:at]
        _require(start < at <= end and name.isascii())
        names.append(name.decode("ascii"))
    return names


def _protocols(data: bytes) -> tuple[bytes, ...]:
    """The ALPN offer of a hello whose names have been read already, so that it only has to be found again."""
    at = 2 + _RANDOM_BYTES
    at += 1 + data[at]
    at += 2 + (data[at] << 8 | data[at + 1])
    at += 1 + data[at] + 2
    while at < len(data):
        start = at + _EXTENSION_HEADER
        end = start + (data[at + 2] << 8 | data[at + 3])
        if data[at] << 8 | data[at + 1] == _ALPN:
            return _named(data[start + 2 : end])
        at = end
    return ()


def _named(data: bytes) -> tuple[bytes, ...]:
    """RFC 7301, section 3.1: names behind their lengths."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        _require(at + 1 < end <= len(data))
        found.append(data[at + 1 : end])
        at = end
    return tuple(found)
