"""One HTTP/1 request head, read strictly (RFC 9112): pure, and 400 on any doubt.

A proxy that is more forgiving than the next reader is how requests are smuggled, so what is lenient in the RFC is
refused here: bare CR or LF, obs-fold, space before the colon, two Hosts, Content-Length beside Transfer-Encoding,
more than one Content-Length, a coding other than a single `chunked`, HTTP/1.0 with Transfer-Encoding.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cloned_proxy.policy.model import Reason


class TargetForm(enum.Enum):
    """RFC 9112, section 3.2."""

    AUTHORITY = "authority"
    ABSOLUTE = "absolute"
    ORIGIN = "origin"
    ASTERISK = "asterisk"


class HeadError(ValueError):
    """A head that is refused: `reason` is `malformed_request` or `host_header_mismatch`, the status always 400 family."""

    def __init__(self, message: str, *, status: int = 400, reason: Reason = Reason.MALFORMED_REQUEST) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Head:
    method: str
    target: str
    """As written."""
    form: TargetForm
    host: str
    """From the target (authority and absolute form) or from Host (origin form); no brackets, no port; not yet canonical."""
    port: int
    path: str
    """Origin-form path and query to ask the upstream for; "" for CONNECT."""
    minor: int
    """HTTP/1.`minor`: 0 or 1."""
    fields: tuple[tuple[str, str], ...]
    """(lower-case name, value without surrounding whitespace), in order, duplicates kept; values are latin-1."""
    content_length: int | None
    chunked: bool

    @property
    def keep_alive(self) -> bool:
        """RFC 9112, section 9.3, `Proxy-Connection` ignored."""
        raise NotImplementedError


def parse_head(data: bytes, *, tunnelled: bool = False, max_fields: int = 200) -> Head:
    r"""Reads one whole head, `data` ending in CRLF CRLF. Raises HeadError.

    Outside a tunnel the target is authority-form for CONNECT and absolute-form `http://` for everything else
    (origin-form is 400: this is not a web server); `tunnelled` heads are in origin-form with exactly one Host.
    """
    raise NotImplementedError
