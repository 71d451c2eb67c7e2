"""Every plaintext ClientHello of a tunnel, until its server has taken one (RFC 8446, sections 4.1.3, 4.1.4, 5.1): pure.

A server may ask for a second ClientHello (HelloRetryRequest), and servers differ in which server name then counts, so
each of them is looked at. The watch ends by what the server says, not the client: behind a ServerHello that is no retry
no server takes another plaintext hello. Only the headers of other records are read, because early data, alerts and
change_cipher_spec may stand between the hellos, and TLS 1.2 encrypts messages under the record type of the hello.
"""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.wire.client_hello import MAX_HELLO_BYTES, ClientHelloReader, ServerNames, Unread

MAX_CLIENT_RECORDS: Final = 4_096
"""Most records of the client before the ServerHello, a hello counted as one: tiny records cost more time than bytes."""
MAX_SERVER_BYTES: Final = 32_768
"""Most bytes of the server before its ServerHello: retries with their cookies, and warnings."""

_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA = 20, 21, 22, 23  # RFC 8446, section 5.1
_PASS_UNREAD: Final = frozenset({_CHANGE_CIPHER_SPEC, _ALERT, _APPLICATION_DATA})
_RECORD_HEADER: Final = 5
_MAX_RECORD: Final = 16_640  # RFC 8446, section 5.2: 2^14 + 256
_SERVER_HELLO: Final = 2
_MESSAGE_HEADER: Final = 4
_TELLING: Final = 38
"""Type, length, version and random: as many bytes of a ServerHello as tell whether it is a retry."""
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""RFC 8446, section 4.1.3: the random of a HelloRetryRequest."""


class HelloWatch:
    """Fed with what both sides send; neither the outcome nor the bytes that pass depend on how they were cut."""

    __slots__ = ("_client_left", "_header", "_message", "_reader", "_records", "_server_header", "_server_left",
                 "_server_total", "_server_type", "done")  # fmt: skip

    def __init__(self, judged: int) -> None:
        """The first `judged` bytes of the client are a hello that passes."""
        self.done = False
        """Whatever comes now passes."""
        self._client_left = judged
        """Bytes that pass unread: of the record at hand."""
        self._records = 0
        self._header = b""
        """The beginning of a record header of the client."""
        self._reader: ClientHelloReader | None = None
        """A further hello, as far as it has come."""
        self._server_header = b""
        self._server_type = 0
        self._server_left = 0
        self._server_total = 0
        self._message = b""
        """What has come of the server's handshake message at hand: its beginning, or of a retry everything."""

    def judge(self, names: ServerNames | None) -> bool:
        """Told the names of a further hello, or None for what no TLS peer sends at this point.

        Raises what ends the tunnel; else says whether the watch goes on, which behind None it never does.
        """
        raise NotImplementedError

    @property
    def holds(self) -> bool:
        """Whether bytes of the client wait: a hello, or a record header, has come in part."""
        return self._reader is not None or bool(self._header)

    @property
    def held(self) -> bytes:
        """What of the client's bytes does not pass yet."""
        return self._header if self._reader is None else bytes(self._reader.received)

    def from_client(self, data: bytes) -> bytes:
        """What passes now. Raises what `judge` raises."""
        if len(data) <= self._client_left:
            self._client_left -= len(data)
            return data
        out: list[bytes] = []
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._client_left:
                passed = data[at : at + self._client_left]
                self._client_left -= len(passed)
                out.append(passed)
                at += len(passed)
            elif self._reader is not None or (not self._header and data[at] == _HANDSHAKE):
                at += self._read_hello(data[at : at + MAX_HELLO_BYTES], out)
            else:
                at += self._read_client_header(data[at : at + _RECORD_HEADER - len(self._header)], out)
        out.append(data[at:])
        return b"".join(out)

    def _read_client_header(self, fresh: bytes, out: list[bytes]) -> int:
        """Takes `fresh`; returns its length."""
        header = self._header = self._header + fresh
        length = _length_of(header)
        if length < 0 or header[0] not in _PASS_UNREAD or (header[0] == _CHANGE_CIPHER_SPEC and length > 1):
            self.done = not self.judge(None)
        elif not length:
            return len(fresh)
        self._count_record()
        out.append(header)
        self._header, self._client_left = b"", max(length, 0)
        return len(fresh)

    def _read_hello(self, fresh: bytes, out: list[bytes]) -> int:
        """Takes of `fresh` what is of the hello; returns how much that is."""
        reader = self._reader or ClientHelloReader()
        before = len(reader.received)
        names = reader.feed(fresh)
        if names is Unread.NEED_MORE:
            self._reader = reader
            return len(fresh)
        self._reader = None
        if isinstance(names, Unread):
            self.done = not self.judge(None)
            out.append(bytes(reader.received))
            return len(fresh)
        self.done = not self.judge(names)
        self._count_record()
        out.append(bytes(reader.received[: reader.end]))
        return reader.end - before

    def _count_record(self) -> None:
        self._records += 1
        if self._records > MAX_CLIENT_RECORDS and not self.done:
            self.done = not self.judge(None)

    def look_at_server(self, data: bytes) -> None:
        """Looks at what is about to pass. Raises what `judge` raises."""
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._server_left:
                piece = data[at : at + self._server_left]
                self._server_left -= len(piece)
                sound = self._server_type != _HANDSHAKE or self._read_server_message(piece)
            else:
                piece = data[at : at + _RECORD_HEADER - len(self._server_header)]
                sound = self._read_server_header(piece)
            at += len(piece)
            if not sound:
                self.done = not self.judge(None)

    def _read_server_header(self, fresh: bytes) -> bool:
        """Whether it can be one."""
        header = self._server_header = self._server_header + fresh
        length = _length_of(header)
        if length > 0:
            self._server_total += _RECORD_HEADER + length
            self._server_header, self._server_type, self._server_left = b"", header[0], length
        between = header[0] in (_CHANGE_CIPHER_SPEC, _ALERT) and not self._message
        return length >= 0 and (header[0] == _HANDSHAKE or between) and self._server_total <= MAX_SERVER_BYTES

    def _read_server_message(self, piece: bytes) -> bool:
        """Whether it can be a ServerHello, which ends the watch at its random, or a retry: behind that is nothing."""
        message = self._message = self._message + piece
        if message[0] != _SERVER_HELLO or len(message) < _TELLING:
            return message[0] == _SERVER_HELLO
        if message[_TELLING - len(_RETRY) : _TELLING] != _RETRY:
            self.done = True
            return True
        end = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER])
        if len(message) < end <= MAX_SERVER_BYTES:
            return True
        self._message = b""
        return len(message) == end and not self._server_left


def _length_of(header: bytes) -> int:
    """Length of a record by its header; 0 while the header is not whole, -1 as soon as it is not one of TLS."""
    if header[1:2] not in (b"", b"\x03") or header[2:3] > b"\x04":
        return -1
    if len(header) < _RECORD_HEADER:
        return 0
    length = header[3] << 8 | header[4]
    return length if 0 < length <= _MAX_RECORD else -1
