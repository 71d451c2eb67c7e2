"""Answers of the proxy as gRPC clients read them: a status in trailers, whatever the HTTP status would be. Pure.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Responses" (Trailers-Only) and "Status-Message".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from cloned_proxy.proxy.enforce.answers import REASON_FIELD, Answer
from cloned_proxy.proxy.wire.head import Head

_PERMISSION_DENIED: Final = 7
_UNKNOWN: Final = 2
_STATUS: Final = {
    HTTPStatus.BAD_REQUEST: 13,  # INTERNAL, what gRPC makes of a 400
    HTTPStatus.FORBIDDEN: _PERMISSION_DENIED,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: 16,  # UNAUTHENTICATED
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: 13,
    HTTPStatus.TOO_MANY_REQUESTS: 8,  # RESOURCE_EXHAUSTED
    HTTPStatus.BAD_GATEWAY: 14,  # UNAVAILABLE
    HTTPStatus.SERVICE_UNAVAILABLE: 14,
    HTTPStatus.GATEWAY_TIMEOUT: 14,
}
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


def speaks_grpc(head: Head) -> bool:
    """Whether the client of this request looks for a gRPC status; gRPC-Web has one in its body, and is plain HTTP."""
    kind = next((value for name, value in head.fields if name == "content-type"), "").lower()
    return kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))


def trailers_only(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The whole answer as one block of fields: HTTP 200, because of a 403 clients show the number alone."""
    reason = next((value for name, value in answer.fields if name == REASON_FIELD), "")
    fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), *status_of(answer)]
    if reason:
        fields.append((REASON_FIELD.lower().encode("ascii"), reason.encode("latin-1")))
    return fields


def status_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The trailers that tell it."""
    content = json.loads(answer.body)
    what = content.get("reason") or content.get("error") or answer.status.phrase
    where = f" ({content['phase']})" if content.get("phase") else ""
    told = f"{what}{where}: {content['hint']}" if content.get("hint") else f"{what}{where}"
    code = _STATUS.get(answer.status, _UNKNOWN)
    return [(b"grpc-status", b"%d" % code), (b"grpc-message", encoded(told))]


def revoked(reason: str) -> Sequence[tuple[bytes, bytes]]:
    """The trailers of a call that was cut in its middle."""
    return ((b"grpc-status", b"%d" % _PERMISSION_DENIED), (b"grpc-message", encoded(f"{reason}: the call was cut")))


def encoded(text: str) -> bytes:
    """The value of `grpc-message`: UTF-8, percent-encoded but for printable ASCII."""
    return b"".join(b"%c" % octet if octet in _PLAIN else b"%%%02X" % octet for octet in text.encode())
