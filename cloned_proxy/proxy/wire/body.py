"""The body of one message, taken from a byte stream strictly (RFC 9112, sections 6 and 7): pure.

Chunk extensions are bounded and dropped: no receiver has to understand them (RFC 9112, section 7.1.1), and what is not
passed on cannot be read differently by the next reader. The same holds for a size: real servers pad theirs with blanks
or zeros to a fixed width, which every reader takes for the same number, and whoever passes a chunk on writes a size of
its own. Trailers are bounded and kept for whoever passes them on.
"""

from __future__ import annotations

import re
from typing import Final, Protocol, Self

from cloned_proxy.policy.terms.http_token import TOKEN
from cloned_proxy.proxy.wire.head import EMPTY_LINE, Head

_CHUNK_LINE: Final = re.compile(rb"(0{0,32})([0-9A-Fa-f]{1,15})([ \t]{0,32}(?:;[\t -~\x80-\xff]*)?)\r\n")
_TRAILER_LINE: Final = re.compile(TOKEN + rb":[\t -~\x80-\xff]*\r\n")
_MAX_LINE: Final = 4096
_MAX_EXTRAS: Final = 65_536
"""Bytes of padding, extensions and trailers of one body: many tiny chunks must not carry a second, unbounded stream."""
_PIECE: Final = 65_536


class BodyError(ValueError):
    """Framing that two readers could read differently, or that ends too early. The message says what and why."""


class OversizeError(ValueError):
    """A message head over the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a message head of more than {limit} bytes")


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
        data = self._data
        self._searched = 0
        if count >= len(data):
            taken = bytes(data)
            data.clear()
            return taken
        with memoryview(data) as view:
            taken = bytes(view[:count])
        del data[:count]
        return taken


class BodyReader(Protocol):
    def read(self, buffer: Buffer) -> bytes | None:
        """The next piece of the body; `b""`: more bytes are needed; None: the body is complete. Raises BodyError."""

    def pass_by(self, data: bytes) -> bool:
        """Whether all of `data`, received while no buffer holds anything, is body; if so it counts as read."""


class SizedBody:
    """`Content-Length`; 0 is a request without a body."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size
        """Bytes that have not been read yet."""

    def read(self, buffer: Buffer) -> bytes | None:
        if not self.left:
            return None
        piece = buffer.take(min(self.left, _PIECE))
        self.left -= len(piece)
        return piece

    def pass_by(self, data: bytes) -> bool:
        if len(data) > self.left:
            return False
        self.left -= len(data)
        return True


class UnsizedBody:
    """A response that ends where its connection ends (RFC 9112, section 6.3, rule 8); no request has such a body."""

    __slots__ = ()

    def read(self, buffer: Buffer) -> bytes | None:
        return buffer.take(_PIECE)

    def pass_by(self, data: bytes) -> bool:  # noqa: ARG002  whatever it is
        return True


_LINE_END: Final = re.compile(rb"\n")


class ChunkedBody:
    __slots__ = ("_ended", "_extras", "_in_trailer", "_left", "trailers")

    def __init__(self) -> None:
        self.trailers: list[bytes] = []
        """The trailer lines, each with its CRLF, well-formed but not yet judged; complete when the body is."""
        self._left = 0
        self._ended = True
        """Whether the CRLF behind the data of the last chunk has been read."""
        self._in_trailer = False
        self._extras = 0

    def go_on(self, left: int, *, ended: bool, extras: int) -> None:
        """Goes on where another reader has stopped.

        `left` bytes of the chunk at hand are to come, or the body has `ended`.
        """
        self._left, self._ended, self._extras = left, ended, extras

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
        self._count(len(match[1]) + len(match[3]))
        self._left = int(match[2], 16)
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
            self.trailers.append(line)
        return b""

    def pass_by(self, data: bytes) -> bool:
        """Data of the chunk at hand only: a size line is read by `read`."""
        if self._in_trailer or len(data) > self._left:
            return False
        self._left -= len(data)
        return True

    def _count(self, extra: int) -> None:
        self._extras += extra
        if self._extras > _MAX_EXTRAS:
            raise BodyError(f"more than {_MAX_EXTRAS} bytes of chunk padding, extensions and trailers")


def body_of(head: Head) -> BodyReader:
    """How the body of a request is framed (RFC 9112, section 6.3); an empty one where there is none."""
    return ChunkedBody() if head.chunked else SizedBody(head.content_length or 0)


def take_head(buffer: Buffer, limit: int) -> bytes | None:
    """One message head with the empty line behind it, None while it is not complete. Raises OversizeError."""
    end = buffer.find(EMPTY_LINE, 2)
    if (end if end >= 0 else len(buffer)) > limit:
        raise OversizeError(limit)
    return buffer.take(end) if end >= 0 else None


def _line(buffer: Buffer) -> bytes | None:
    """One line with its end, None while it is not complete."""
    end = buffer.find(_LINE_END, 0)
    if max(end, 0 if end >= 0 else len(buffer)) > _MAX_LINE:
        raise BodyError(f"a chunk line of more than {_MAX_LINE} bytes")
    return buffer.take(end) if end >= 0 else None
