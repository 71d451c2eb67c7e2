"""Field blocks of HTTP/2, read strictly into the values that HTTP/1.1 is read into (RFC 9113, section 8): pure.

`h2` checks none of this here: it would end the connection with all of its streams for one bad request, and what it
lets through (any control character but three, any `:path`) could be two requests for an HTTP/1.1 upstream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.http_token import TOKEN
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.inspection.examining.examiners import RawFields, ResponseSeen
from cloned_proxy.proxy.secrets.injection import Injection
from cloned_proxy.proxy.wire.fields import authority, passes
from cloned_proxy.proxy.wire.head import Head, HeadError, parse_head
from cloned_proxy.proxy.wire.response import FIRST_FINAL, ResponseError, ResponseHead, is_trailer

type Block = Sequence[tuple[bytes, bytes]]

# RFC 9113, section 8.2.1, and RFC 9110, sections 5.1 and 5.5: a lower-case token, and a value without control
# characters that does not begin or end with a blank.
_NAME: Final = re.compile(TOKEN.replace(b"A-Z", b""))
_VALUE: Final = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_TOKEN: Final = re.compile(TOKEN)
_VISIBLE: Final = re.compile(rb"[!-~]+")
_STATUS: Final = re.compile(rb"[1-9][0-9]{2}")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_OF_ONE_HOP: Final = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""RFC 9113, section 8.2.2: a message with one of these is malformed."""
_ASKED: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_NO_CONTENT: Final = frozenset({204, 304})
_HTTPS_PORT: Final = 443
_NEVER_INDEXED: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"x-api-key"})
"""Credentials never enter the table that all streams of a connection share (RFC 7541, section 7.1.3)."""


def read_request(block: Block, *, max_fields: int, ended: bool) -> Head:
    """The head of a request; `ended` for one without a body. Raises HeadError."""
    pseudo, fields = _split(block, max_fields)
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if b":protocol" in pseudo:
        raise HeadError("extended CONNECT (RFC 8441) is not offered here: open a WebSocket on HTTP/1.1")
    if not _ASKED.issuperset(pseudo) or method is None or path is None or b":scheme" not in pseudo:
        raise HeadError("a request has :method, :scheme and :path, and no other pseudo-field (RFC 9113, section 8.3.1)")
    if method == b"CONNECT":
        raise HeadError("CONNECT where no proxy was asked")
    if pseudo[b":scheme"] != b"https":
        raise HeadError("the :scheme of a request in TLS is https")
    if _TOKEN.fullmatch(method) is None or _VISIBLE.fullmatch(path) is None:
        raise HeadError("a :method that is no token, or a :path that is not visible ASCII (RFC 9113, section 8.3.1)")
    if not path.startswith(b"/") and (method, path) != (b"OPTIONS", b"*"):
        raise HeadError("a :path that does not begin with `/` (RFC 9113, section 8.3.1)")
    host = _host_of(pseudo, fields, method, path)
    length = _length_of(fields)
    if ended and length:
        raise HeadError("Content-Length of a body that does not come (RFC 9113, section 8.1.1)")
    # The shape that the rest of the proxy knows, from the one reader that makes it.
    line = b"%b %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (method, path, host)
    read = parse_head(line, tunnelled=True)
    kept = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in fields)
    unsized = not ended and length is None
    return Head(read.method, read.target, read.form, read.host, read.port, read.path, read.minor, kept, length, unsized)


def _split(block: Block, max_fields: int) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Pseudo-fields and fields. Raises HeadError."""
    if len(block) > max_fields:
        raise HeadError(f"more than {max_fields} header fields", status=431)
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    name_matches, value_matches = _NAME.fullmatch, _VALUE.fullmatch
    for name, value in block:
        if value_matches(value) is None:
            raise HeadError("a control character, or a blank around a field value (RFC 9113, section 8.2.1)")
        if name[:1] == b":":
            if fields or name in pseudo:
                raise HeadError("a pseudo-field twice, or behind other fields (RFC 9113, section 8.3)")
            pseudo[name] = value
            continue
        if name_matches(name) is None:
            raise HeadError("a field name that is not a lower-case token (RFC 9113, section 8.2.1)")
        if name in _OF_ONE_HOP or (name == b"te" and value.lower() != b"trailers"):
            raise HeadError("a field of an HTTP/1.1 connection (RFC 9113, section 8.2.2)")
        fields.append((name, value))
    return pseudo, fields


def _host_of(pseudo: dict[bytes, bytes], fields: Block, method: bytes, path: bytes) -> bytes:
    """`:authority`; Host where it is missing. RFC 9113, section 8.3.1: both say the same."""
    hosts = [value for name, value in fields if name == b"host"]
    named = pseudo.get(b":authority")
    if len(hosts) > 1 or (named is None and not hosts):
        raise HeadError("a request has one :authority (RFC 9113, section 8.3.1)")
    if named is None:
        return hosts[0]
    if hosts and hosts[0] != named and not _same(hosts[0], named):
        seen = Request(named.decode("latin-1"), _HTTPS_PORT, method.decode("ascii"), path.decode("ascii"))
        message = "the Host field names another host than :authority"
        raise HeadError(message, reason=Reason.HOST_HEADER_MISMATCH, request=seen)
    return named


def _same(one: bytes, other: bytes) -> bool:
    def canonical(text: bytes) -> tuple[Host, str]:
        name, _, port = text.decode("latin-1").partition(":")
        return parse_host(name), port or str(_HTTPS_PORT)

    try:
        return canonical(one) == canonical(other)
    except HostError:
        return False


def _length_of(fields: Block) -> int | None:
    lengths = [value for name, value in fields if name == b"content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise HeadError("Content-Length twice, or not a number (RFC 9110, section 8.6)")
    return int(lengths[0])


def request_block(head: Head, host: Host, fields: Block, injection: Injection | None) -> list[HeaderTuple]:
    """What goes to an HTTP/2 upstream; `fields` are those of `request_fields`, the first of which is Host."""
    secret = injection.name.encode("ascii") if injection is not None else b""
    block = [
        HeaderTuple(b":method", head.method.encode("ascii")),
        HeaderTuple(b":scheme", b"https"),
        HeaderTuple(b":authority", authority(host, head.port, default_port=_HTTPS_PORT).encode("ascii")),
        HeaderTuple(b":path", head.path.encode("ascii")),
    ]
    for name, value in fields:
        if name not in (b"host", b"transfer-encoding", b"connection"):
            kind = NeverIndexedHeaderTuple if name == secret or name in _NEVER_INDEXED else HeaderTuple
            block.append(kind(name, value))
    if wants_trailers(head):
        block.append(HeaderTuple(b"te", b"trailers"))
    return block


def wants_trailers(head: Head) -> bool:
    """Without this field a gRPC server refuses the call."""
    return any(name == "te" and value.lower() == "trailers" for name, value in head.fields)


# Responses.


def read_response(block: Block, *, method: str, ended: bool, max_fields: int) -> ResponseSeen:
    """The head of a final response, or of an interim one. Raises ResponseError."""
    try:
        pseudo, fields = _split(block, max_fields)
        length = _length_of(fields)
    except HeadError as error:
        raise ResponseError(str(error)) from None
    code = pseudo.get(b":status", b"")
    if len(pseudo) != 1 or _STATUS.fullmatch(code) is None:
        raise ResponseError("a response has one :status and no other pseudo-field (RFC 9113, section 8.3.2)")
    status = int(code)
    if ended and length and method != "HEAD" and status not in _NO_CONTENT:
        raise ResponseError("Content-Length of a body that does not come (RFC 9113, section 8.1.1)")
    has_body = not ended and method != "HEAD" and status >= FIRST_FINAL and status not in _NO_CONTENT
    kept = [
        (name, value)
        for name, value in fields
        if name != b"content-length" and passes(name.decode("ascii"), frozenset())
    ]
    return ResponseSeen(status, b"", kept, length, has_body)


def seen_of(head: ResponseHead, *, method: str) -> ResponseSeen:
    """The head of an HTTP/1.1 response."""
    lines = (line.partition(b":") for line in head.lines)
    fields = [(name, value.strip(b" \t\r\n")) for name, _, value in lines]
    has_body = head.body(method) is not None and head.content_length != 0
    return ResponseSeen(head.status, head.phrase, fields, head.content_length, has_body)


def response_block(seen: ResponseSeen, length: int | None) -> list[tuple[bytes, bytes]]:
    """What the client gets. RFC 9110, section 8.6: 204 has no Content-Length."""
    block = [(b":status", b"%d" % seen.status), *((name.lower(), value) for name, value in seen.fields)]
    if length is not None and seen.status != 204:  # noqa: PLR2004  No Content
        block.append((b"content-length", b"%d" % length))
    return block


def answer_block(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The head of an answer of the proxy's own."""
    fields = [(name.lower(), value) for name, value in answer.fields if name != "Connection"]
    block = [(b":status", b"%d" % answer.status.value)]
    return block + [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]


def trailers_of(block: Block, *, max_fields: int) -> RawFields:
    """The trailers that may go on; a reader that merges them into the head learns nothing by it. Raises HeadError."""
    pseudo, fields = _split(block, max_fields)
    if pseudo:
        raise HeadError("a pseudo-field among trailers (RFC 9113, section 8.1)")
    return [(name, value) for name, value in fields if is_trailer(name.decode("ascii"))]


def trailer_fields(lines: Iterable[bytes]) -> RawFields:
    """The trailers of an HTTP/1.1 response, as `body` keeps them."""
    found = (line.partition(b":") for line in lines)
    return [
        (name.lower(), value.strip(b" \t\r\n")) for name, _, value in found if is_trailer(name.decode("ascii").lower())
    ]
