"""The body of one request, taken from the client's byte stream strictly (RFC 9112, sections 6 and 7): pure.

Chunk extensions and trailers are bounded and dropped: no receiver has to understand them (RFC 9112, section 7.1.1;
RFC 9110, section 6.5.1), and what is not passed on cannot be read differently by the next reader.
"""

from __future__ import annotations

import re
from typing import Final, Protocol, Self

_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*;[\t -~\x80-\xff]*)?\r\n")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n")
_MAX_LINE: Final = 4096
_MAX_EXTRAS: Final = 65_536
"""Bytes of extensions and trailers of one body: many tiny chunks must not carry a second, unbounded stream."""
_PIECE: Final = 65_536


class BodyError(ValueError):
    """Framing that two readers could read differently, or that ends too early. The message says what and why."""


class Buffer:
    """Bytes received and not yet used; finding a line or a head looks at no byte twice."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0

    def __iadd__(self, data: bytes) -> Self:
        self._data += data
        return self

    def __len__(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return bytes(self._data)

    def find(self, pattern: re.Pattern[bytes], overlap: int) -> int:
        """The end of the first match, -1 for none yet. `overlap` is the length of the longest match less one."""
        match = pattern.search(self._data, max(0, self._searched - overlap))
        self._searched = len(self._data)
        return match.end() if match is not None else -1

    def starts_with(self, pattern: re.Pattern[bytes]) -> bool:
        return pattern.match(self._data) is not None

    def take(self, count: int) -> bytes:
        taken = bytes(self._data[:count])
        del self._data[:count]
        self._searched = 0
        return taken

    def maybe_extract_at_most(self, count: int) -> bytes | None:
        """The name that mitmproxy's layers call `take` by."""
        return self.take(count) or None


class BodyReader(Protocol):
    def read(self, buffer: Buffer) -> bytes | None:
        """The next piece of the body; `b""`: more bytes are needed; None: the body is complete. Raises BodyError."""


class SizedBody:
    """`Content-Length`; 0 is a request without a body."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, buffer: Buffer) -> bytes | None:
        if not self._left:
            return None
        piece = buffer.take(min(self._left, _PIECE))
        self._left -= len(piece)
        return piece


_LINE_END: Final = re.compile(rb"\n")


class ChunkedBody:
    __slots__ = ("_ended", "_extras", "_in_trailer", "_left")

    def __init__(self) -> None:
        self._left = 0
        self._ended = True
        """Whether the CRLF behind the data of the last chunk has been read."""
        self._in_trailer = False
        self._extras = 0

    def read(self, buffer: Buffer) -> bytes | None:
        if self._in_trailer:
            return self._read_trailer(buffer)
        if not self._left and not self._read_chunk_line(buffer):
            return b""
        if self._in_trailer:
            return self._read_trailer(buffer)
        piece = buffer.take(min(self._left, _PIECE))
        self._left -= len(piece)
        return piece

    def _read_chunk_line(self, buffer: Buffer) -> bool:
        if not self._ended:
            end = _line(buffer)
            if end is None:
                return False
            if end != b"\r\n":
                raise BodyError("a chunk is longer than its size says (RFC 9112, section 7.1)")
            self._ended = True
        line = _line(buffer)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise BodyError("a chunk size line that is not hexadecimal digits and CRLF (RFC 9112, section 7.1)")
        self._count(len(match[2] or b""))
        self._left = int(match[1], 16)
        self._ended = False
        self._in_trailer = not self._left
        return True

    def _read_trailer(self, buffer: Buffer) -> bytes | None:
        while (line := _line(buffer)) is not None:
            if line == b"\r\n":
                return None
            if _TRAILER_LINE.fullmatch(line) is None:
                raise BodyError("a malformed trailer (RFC 9112, section 7.1.2)")
            self._count(len(line))
        return b""

    def _count(self, extra: int) -> None:
        self._extras += extra
        if self._extras > _MAX_EXTRAS:
            raise BodyError(f"more than {_MAX_EXTRAS} bytes of chunk extensions and trailers")


def _line(buffer: Buffer) -> bytes | None:
    """One line with its end, None while it is not complete."""
    end = buffer.find(_LINE_END, 0)
    if max(end, 0 if end >= 0 else len(buffer)) > _MAX_LINE:
        raise BodyError(f"a chunk line of more than {_MAX_LINE} bytes")
    return buffer.take(end) if end >= 0 else None
