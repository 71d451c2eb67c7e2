"""The lines of an HTTP/1 head, read strictly, what frames its body, and what is said of one that is refused: pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Self

from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.http_token import TOKEN
from cloned_proxy.policy.terms.vocabulary import Reason

NOTHING_READ: Final = Request(host="", port=0)


class HeadError(ValueError):
    """A head that is refused: `reason` is `malformed_request` or `host_header_mismatch`, the status 400 or 431.

    `request` and `fields` are what could be read of it, for the record only: nothing in them may be acted on.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        reason: Reason = Reason.MALFORMED_REQUEST,
        request: Request = NOTHING_READ,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.request = request
        self.fields: tuple[tuple[str, str], ...] = ()

    def about(self, request: Request, fields: Sequence[tuple[str, str]]) -> Self:
        """The same, of a head as far as it could be read."""
        self.request = request
        self.fields = tuple(fields)
        return self


END: Final = b"\r\n\r\n"
# RFC 9112, section 5: no whitespace before the colon. RFC 9110, section 5.5: VCHAR, obs-text, SP and HTAB in values.
# CR, LF, NUL and every other control character are in no class, so they cannot match anywhere.
_FIELD: Final = re.compile(rb"(" + TOKEN + rb"):([\t -~\x80-\xff]*)\r\n")
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)  # RFC 9112, section 6.2: 1*DIGIT, and fits 63 bits

_SINGLES: Final = frozenset({"host", "content-length", "transfer-encoding"})


def read_fields(data: bytes, at: int, max_fields: int, fields: list[tuple[str, str]]) -> dict[str, str]:
    """Appends the fields from offset `at` to the empty line; returns those among them that may stand only once."""
    singles: dict[str, str] = {}
    end = len(data) - 2
    match = _FIELD.match
    while at < end:
        line = match(data, at)
        if line is None:
            raise field_error(data, at)
        if len(fields) == max_fields:
            raise HeadError(f"more than {max_fields} header fields", status=431)
        name = line[1].decode("ascii").lower()
        value = line[2].strip(b" \t").decode("latin-1")
        if name in _SINGLES:
            if name in singles:
                raise HeadError(f"two {name} fields")
            singles[name] = value
        fields.append((name, value))
        at = line.end()
    return singles


def read_framing(singles: dict[str, str], method: str, minor: int) -> tuple[int | None, bool]:
    """RFC 9112, section 6: at most one of Content-Length and `Transfer-Encoding: chunked`."""
    coding, length = singles.get("transfer-encoding"), singles.get("content-length")
    if coding is None and length is None:
        return None, False
    if coding is not None:
        if length is not None:
            raise HeadError("Content-Length beside Transfer-Encoding (RFC 9112, section 6.1)")
        if minor == 0:
            raise HeadError("Transfer-Encoding in HTTP/1.0 (RFC 9112, section 6.1)")
        # Codings are case-insensitive, but not every server knows: only the spelling that all readers share passes.
        if coding != "chunked":
            raise HeadError("a Transfer-Encoding other than `chunked`")
    if length is not None and _CONTENT_LENGTH.fullmatch(length) is None:
        raise HeadError("Content-Length is not a number (RFC 9112, section 6.2)")
    size = int(length) if length is not None else None
    if method == "CONNECT" and (coding is not None or size):
        raise HeadError("CONNECT with a body (RFC 9110, section 9.3.6)")
    return size, coding is not None


def request_line_error(data: bytes) -> HeadError:
    """What is wrong with the first line, or with the end, of a head."""
    if not data.endswith(END):
        return HeadError("the head does not end in an empty line")
    line = data[: data.find(b"\n") + 1]
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        return HeadError("a bare CR or LF in the request line (RFC 9112, section 2.2)")
    return HeadError("the request line is not `method target HTTP/1.1` (RFC 9112, section 3)")


def field_error(data: bytes, at: int) -> HeadError:
    """What is wrong with the line at offset `at`."""
    line = data[at : data.find(b"\n", at) + 1]
    if line[:1] in (b" ", b"\t"):
        return HeadError("a folded header line (RFC 9112, section 5.2)")
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        return HeadError("a bare CR or LF in a header line (RFC 9112, section 2.2)")
    name, colon, _ = line.partition(b":")
    if not colon:
        return HeadError("a header line without a colon (RFC 9112, section 5)")
    if name.endswith((b" ", b"\t")):
        return HeadError("whitespace before the colon of a header line (RFC 9112, section 5.1)")
    if re.fullmatch(TOKEN, name) is None:
        return HeadError("a header name that is not a token (RFC 9110, section 5.1)")
    return HeadError("a control character in a header value (RFC 9110, section 5.5)")
