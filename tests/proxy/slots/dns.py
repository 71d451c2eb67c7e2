"""DNS messages as clients send them, and a mutational fuzzer of the reader of them."""

from __future__ import annotations

import random
import struct
import time
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NamedTuple

from cloned_proxy.proxy.slots.dns_message import MAX_REPLY, answer
from cloned_proxy.proxy.transport.name_tags import NameTags

NETWORK: Final = IPv4Network("127.128.0.0/9")
A, NS, SOA, PTR, MX, TXT, AAAA, SRV, OPT, HTTPS, IXFR, AXFR, ANY = 1, 2, 6, 12, 15, 16, 28, 33, 41, 65, 251, 252, 255
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5
EDNS: Final = b"\0\0\x29\x10\0\0\0\0\0\0\0"


def query(
    name: bytes, kind: int = A, *, klass: int = 1, flags: int = 0x0100, count: int = 1, edns: bool = False
) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b".")) if name else b""
    head = struct.pack("!6H", 77, flags, count, 0, 0, int(edns))
    return head + labels + b"\0" + struct.pack("!HH", kind, klass) + (EDNS if edns else b"")


class Reply(NamedTuple):
    code: int
    answers: int
    additional: int
    data: bytes

    @property
    def address(self) -> IPv4Address:
        """Of the one A record, which stands at the end unless an OPT record follows."""
        end = len(self.data) - 11 * self.additional
        return IPv4Address(self.data[end - 4 : end])


def read(data: bytes | None) -> Reply | None:
    if data is None:
        return None
    ident, flags, _, answers, authority, additional = struct.unpack("!6H", data[:12])
    assert (ident, flags & 0x8000, authority) == (77, 0x8000, 0)
    return Reply(flags & 15, answers, additional, data)


def ask(tags: NameTags, message: bytes) -> Reply | None:
    return read(answer(message, tags.exists, tags.address_of))


_SEEDS: Final = (
    query(b"api.example.com"),
    query(b"localhost", edns=True),
    query(b".".join([b"a" * 63] * 3 + [b"b" * 61])),
    query(b"aPi.eXAMPLE.cOm", AAAA, edns=True),
    query(b"xn--bcher-kva.example", HTTPS),
    query(b"version.bind", TXT, klass=3),
    query(b"", NS),
)


def mutated(rng: random.Random) -> bytes:
    """A query with some bytes changed, cut out or put in."""
    data = bytearray(rng.choice(_SEEDS))
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) or 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randrange(1, 9)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                data[at : at + 2] = bytes([0xC0 | rng.randrange(64), rng.randrange(256)])
    return bytes(data)


def check(tags: NameTags, message: bytes) -> bool:
    """Whether it got an address. Whatever came: a reply is short, is a reply to it, and leaves the tags bounded."""
    reply = answer(message, tags.exists, tags.address_of)
    if reply is None:
        assert len(message) < 12 or message[2] & 0x80
        return False
    assert 12 <= len(reply) <= MAX_REPLY
    assert reply[:2] == message[:2]
    assert reply[2] & 0x80
    answers = struct.unpack("!H", reply[6:8])[0]
    assert answers <= 1
    if answers:
        tag = IPv4Address(reply[-15:-11] if reply[11] else reply[-4:])
        assert tag in tags.network or tag == IPv4Address("127.0.0.1")
    return bool(answers)


def run(inputs: int, seconds: float, seed: int) -> tuple[int, int]:
    """Messages that were answered in good order, and how many got an address. Raises AssertionError with the one."""
    rng, tags = random.Random(seed), NameTags(NETWORK)
    done = given = 0
    end = time.monotonic() + seconds
    while done < inputs and time.monotonic() < end:
        message = mutated(rng)
        try:
            given += check(tags, message)
        except Exception as error:
            raise AssertionError(f"{message!r}: {error!r}") from error
        done += 1
    return done, given
