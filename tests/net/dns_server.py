"""A DNS server that writes down every question and answers from the zone. UDP only: no answer here is long."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from collections import Counter
from typing import Final

from tests.net.zone import Name, answer_for

_A: Final = 1
_CNAME: Final = 5
_AAAA: Final = 28
_FAMILIES: Final = {_A: 4, _AAAA: 6}
_TTL: Final = 0
"""Seconds: whatever is cached is the cache of the program under test."""


class DnsServer:
    """Listens on one address; `asked` holds each question in order."""

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        self._answers: Counter[tuple[str, int]] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))

    def start(self) -> None:
        threading.Thread(target=self._serve, daemon=True).start()

    def reset(self) -> None:
        self.asked.clear()
        self._answers.clear()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            # One thread a question: a slow name must not hold up the others, as on the real internet.
            threading.Thread(target=self._answer, args=(query, client), daemon=True).start()

    def _answer(self, query: bytes, client: tuple[str, int]) -> None:
        name, kind, question = _read_question(query)
        self.asked.append(name)
        entry = answer_for(name)
        if entry.delay < 0:
            return
        time.sleep(entry.delay)
        reply = self._reply(query[:2], question, name, kind, entry)
        self._socket.sendto(reply, client)

    def _reply(self, identity: bytes, question: bytes, name: str, kind: int, entry: Name) -> bytes:
        if entry.code:
            return identity + struct.pack("!HHHHH", 0x8180 | entry.code, 1, 0, 0, 0) + question
        records: list[bytes] = []
        if entry.alias:
            records.append(_record(b"\xc0\x0c", _CNAME, _labels(entry.alias)))
            owner, entry = _labels(entry.alias), answer_for(entry.alias)
        else:
            owner = b"\xc0\x0c"
        turn = self._answers[name, kind]
        self._answers[name, kind] += 1
        addresses = entry.then if entry.then and turn else entry.addresses
        for text in addresses:
            address = ipaddress.ip_address(text)
            if _FAMILIES.get(kind) == address.version:
                records.append(_record(owner, kind, address.packed))
        return identity + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0) + question + b"".join(records)


def _read_question(query: bytes) -> tuple[str, int, bytes]:
    """The name in lower case, its type, and the question section to repeat in the answer."""
    labels: list[str] = []
    at = 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    return ".".join(labels), kind, query[12 : at + 5]


def _labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, _TTL, len(data)) + data
