"""The answer to one DNS message (RFC 1035), from what is known here: pure, bounded, and nobody else is ever asked.

Our own reader, because all that a slot needs is one question with its reply: compression, zones and records are what
makes a DNS library large, and none of it occurs here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

MAX_REPLY: Final = 512
"""Bytes. RFC 1035, section 4.2.1: what every client takes by UDP, so that a reply is never truncated."""
TTL: Final = 5
"""Seconds. A name whose address was given to another is asked for anew soon."""

_HEADER: Final = struct.Struct("!6H")
_QUESTION_TAIL: Final = struct.Struct("!2H")
_RECORD: Final = struct.Struct("!HHHIH4s")
_RESPONSE: Final = 0x8480
"""RFC 1035, section 4.1.1: QR, AA and RA."""
_RECURSION_DESIRED: Final = 0x0100
_OPT: Final = struct.Struct("!BHHIH").pack(0, 41, 1232, 0, 0)
"""RFC 6891: an OPT record of version 0."""
_OPT_BEGINS: Final = b"\0\0\x29"
_QUESTION_AT: Final = _HEADER.size
_TO_THE_NAME: Final = 0xC000 | _QUESTION_AT
"""RFC 1035, section 4.1.4: a pointer to the name of the question."""
_MAX_NAME: Final = 255
_MAX_LABEL: Final = 63
_IN: Final = 1
_A: Final = 1
_ANY: Final = 255
_META: Final = range(128, 256)
"""RFC 6895, section 3.1: question and meta types, such as AXFR (252)."""
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP, _REFUSED = 0, 1, 3, 4, 5

type AddressOf = Callable[[str], IPv4Address | None]
"""The address of a name (lower case, without the trailing dot), or None: there is no such name."""
type Exists = Callable[[str], bool]


class _MalformedMessageError(Exception):
    pass


def answer(message: bytes, exists: Exists, address_of: AddressOf) -> bytes | None:
    """The reply to `message`, of at most MAX_REPLY bytes; None for what gets none: no query, or no whole header.

    A name that `exists` has one A record and nothing else: other types are answered empty at once, so that nobody waits
    for them. `address_of` is asked only where the address is. Never raises.
    """
    if len(message) < _HEADER.size:
        return None
    ident, flags, questions, _, _, additional = _HEADER.unpack_from(message)
    if flags & 0x8000:  # answering answers is how loops begin
        return None
    reply = _Reply(ident, flags & _RECURSION_DESIRED)
    if flags >> 11 & 15:
        return reply.encode(_NOTIMP)
    try:
        labels, end = _read_name(message)
        kind, klass = _QUESTION_TAIL.unpack_from(message, end)
    except (_MalformedMessageError, struct.error):
        return reply.encode(_FORMERR)
    if questions != 1:
        return reply.encode(_FORMERR)
    end += _QUESTION_TAIL.size
    reply.question = message[_QUESTION_AT:end]  # letter case and all: some clients compare it
    reply.extended = additional > 0 and message[end : end + len(_OPT_BEGINS)] == _OPT_BEGINS
    return reply.encode(_code_for(reply, _text_of(labels), kind, klass, exists, address_of))


def _code_for(reply: _Reply, name: str, kind: int, klass: int, exists: Exists, address_of: AddressOf) -> int:  # noqa: PLR0917  the parts of one question
    if klass != _IN or (kind in _META and kind != _ANY):
        return _REFUSED
    if not exists(name):
        return _NXDOMAIN
    if kind in (_A, _ANY):
        reply.address = address_of(name)
    return _NOERROR


def _read_name(message: bytes) -> tuple[list[bytes], int]:
    """The labels of the question's name, and where it ends. A question holds no pointer."""
    labels: list[bytes] = []
    at = _QUESTION_AT
    while True:
        size = message[at] if at < len(message) else _MAX_LABEL + 1
        if size > _MAX_LABEL or at + 1 - _QUESTION_AT > _MAX_NAME:
            raise _MalformedMessageError
        at += 1
        if not size:
            return labels, at
        labels.append(message[at : at + size])
        at += size


def _text_of(labels: list[bytes]) -> str:
    """As text; what text cannot say, such as a dot inside a label, becomes a name that no host has.

    So does what is not ASCII: international names are asked for by their A-labels (RFC 5890).
    """
    if any(b"." in label or not label.isascii() for label in labels):
        return ""
    return b".".join(labels).lower().decode("ascii")


class _Reply:
    __slots__ = ("_head", "address", "extended", "question")

    def __init__(self, ident: int, flags: int) -> None:
        self._head = (ident, _RESPONSE | flags)
        self.question = b""
        self.extended = False
        self.address: IPv4Address | None = None

    def encode(self, code: int) -> bytes:
        ident, flags = self._head
        record = b""
        if self.address is not None:
            record = _RECORD.pack(_TO_THE_NAME, _A, _IN, TTL, 4, self.address.packed)
        counts = (bool(self.question), bool(record), 0, self.extended)
        return _HEADER.pack(ident, flags | code, *counts) + self.question + record + (_OPT if self.extended else b"")
