"""One HTTP/1 response head, read strictly (RFC 9112), and what of it the client gets: pure.

An upstream that answers ambiguously is answered for with 502: whoever stands behind us might read it differently, and
take the rest for the response to another request. Lines are checked and passed on as bytes, in their own spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from cloned_proxy.policy.terms.http_token import TOKEN
from cloned_proxy.proxy.wire.body import BodyReader, ChunkedBody, SizedBody, UnsizedBody
from cloned_proxy.proxy.wire.fields import VIA, passes

SWITCHING_PROTOCOLS: Final = 101
FIRST_FINAL: Final = 200
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304

_VIA: Final = VIA.encode("ascii")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")
# RFC 9112, section 5; RFC 9110, section 5.5. CR, LF, NUL and other control characters are in no class.
_FIELD: Final = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*)\r\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # fits 63 bits
_READ_HERE: Final = frozenset(
    {b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"te", b"trailer", b"upgrade"}
)
"""Fields of this one connection: understood here and never passed on as they are."""


class ResponseError(ValueError):
    """A response head that is refused; the message says why and is for the log only."""


class ResponseHead(NamedTuple):
    status: int
    minor: int
    """HTTP/1.`minor`: 0 or 1."""
    phrase: bytes
    lines: list[bytes]
    """The fields that pass, each with its CRLF."""
    content_length: int | None
    chunked: bool
    keep_alive: bool
    """RFC 9112, section 9.3; HTTP/1.0 connections are never kept."""
    upgrade: bytes
    """Lower case; b"" for none."""

    def body(self, method: str) -> BodyReader | None:
        """How the body is framed (RFC 9112, section 6.3); None when there is none."""
        if method == "HEAD" or self.status < FIRST_FINAL or self.status in (_NO_CONTENT, _NOT_MODIFIED):
            return None
        if self.chunked:
            return ChunkedBody()
        return SizedBody(self.content_length) if self.content_length is not None else UnsizedBody()

    def encode(self, body: BodyReader | None, *, minor: int, close: bool) -> bytes:
        """The head for a client of HTTP/1.`minor`. A body without a length is chunked, for HTTP/1.0 it ends in FIN."""
        parts = [b"HTTP/1.1 %d %b\r\n" % (self.status, self.phrase), *self.lines]
        # RFC 9110, section 8.6: no Content-Length in 1xx and 204; a 304 and the answer to HEAD tell the one of a GET.
        if self.content_length is not None and self.status >= FIRST_FINAL and self.status != _NO_CONTENT:
            parts.append(b"Content-Length: %d\r\n" % self.content_length)
        elif body is not None and minor:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if self.status == SWITCHING_PROTOCOLS:
            parts.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        elif close:
            parts.append(b"Connection: close\r\n")
        parts.append(_VIA)
        parts.append(b"\r\n")
        return b"".join(parts)


def parse_response(data: bytes, *, max_fields: int) -> ResponseHead:
    """Reads one whole head, `data` ending in an empty line. Raises ResponseError."""
    line = _STATUS_LINE.match(data)
    if line is None:
        raise ResponseError("the status line is not `HTTP/1.1 status phrase` (RFC 9112, section 4)")
    version, status, phrase = line.groups()
    lines: list[bytes] = []
    own: dict[bytes, bytes] = {}
    at, end, count = line.end(), len(data) - 2, 0
    match = _FIELD.match
    while at < end:
        field = match(data, at)
        if field is None:
            raise ResponseError("a malformed, folded or unterminated header line (RFC 9112, section 5)")
        count += 1
        name = field[1].lower()
        if name in _READ_HERE:
            _note(own, name, field[2].strip(b" \t"))
        elif not name.startswith((b"proxy-", b"x-cloned-")):
            lines.append(field[0])
        at = field.end()
    if count > max_fields:
        raise ResponseError(f"more than {max_fields} header fields")
    minor = version == b"1"
    options = _options(own)
    if options and options != {b"close"}:
        lines = [line for line in lines if line.partition(b":")[0].lower() not in options]
    length, chunked = _framing(own, minor=minor)
    return ResponseHead(
        int(status), int(minor), phrase or b"", lines, length, chunked, minor and b"close" not in options,
        own.get(b"upgrade", b"").lower() if b"upgrade" in options else b"",
    )  # fmt: skip


def _note(own: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    if name not in own:
        own[name] = value
    elif name in (b"content-length", b"transfer-encoding"):
        raise ResponseError(f"two {name.decode()} fields (RFC 9112, section 6.3)")
    else:
        own[name] += b"," + value


def _options(own: dict[bytes, bytes]) -> set[bytes]:
    connection = own.get(b"connection")
    return {option.strip(b" \t").lower() for option in connection.split(b",")} if connection is not None else set()


def _framing(own: dict[bytes, bytes], *, minor: bool) -> tuple[int | None, bool]:
    """RFC 9112, section 6: at most one of Content-Length and `Transfer-Encoding: chunked`."""
    coding, length = own.get(b"transfer-encoding"), own.get(b"content-length")
    if coding is not None:
        if length is not None or not minor or coding.lower() != b"chunked":
            raise ResponseError(
                "a Transfer-Encoding that is not a single `chunked` of HTTP/1.1 (RFC 9112, section 6.1)"
            )
        return None, True
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise ResponseError("Content-Length is not a number (RFC 9112, section 6.2)")
    return int(length) if length is not None else None, False


_NEVER_TRAILERS: Final = frozenset(
    {
        "authorization", "cache-control", "content-encoding", "content-length", "content-range", "content-type",
        "cookie", "expect", "host", "max-forwards", "range", "set-cookie", "transfer-encoding", "www-authenticate",
    }
)  # fmt: skip
"""RFC 9110, section 6.5.1: what routes, frames, authenticates or controls must not come behind the body."""


def trailers_of(body: ChunkedBody, *, but: Callable[[str], bool] = lambda _name: False) -> bytes:
    """The trailer lines that may go on, `but` not those that the caller names (lower case).

    A reader that merges them into the head must not learn anything new by it.
    """
    names = [line.partition(b":")[0].decode("ascii").lower() for line in body.trailers]
    lines = zip(names, body.trailers, strict=True)
    return b"".join(line for name, line in lines if is_trailer(name) and not but(name))


def is_trailer(name: str) -> bool:
    """Whether a field (lower-case name) may be one."""
    return name not in _NEVER_TRAILERS and passes(name, frozenset())
