"""What a slot's name server answers: one address for what can be a host, nothing else for anything."""

from __future__ import annotations

import random

import pytest

from cloned_proxy.proxy.slots.dns_message import answer
from cloned_proxy.proxy.transport.name_tags import NameTags
from tests.proxy.slots.dns import (
    AAAA,
    ANY,
    AXFR,
    FORMERR,
    HTTPS,
    IXFR,
    MX,
    NETWORK,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    PTR,
    REFUSED,
    SRV,
    TXT,
    A,
    Reply,
    ask,
    query,
    run,
)

NAME = b"api.example.com"
INPUTS = 4_000


@pytest.fixture
def tags() -> NameTags:
    return NameTags(NETWORK)


def asked(tags: NameTags, message: bytes) -> Reply:
    reply = ask(tags, message)
    assert reply is not None
    return reply


@pytest.mark.parametrize("kind", [A, ANY])
def test_a_name_has_one_address_of_the_network(tags: NameTags, kind: int) -> None:
    reply = asked(tags, query(NAME, kind))
    assert (reply.code, reply.answers) == (NOERROR, 1)
    assert reply.address in NETWORK
    assert tags.name_of(reply.address) == "api.example.com"


@pytest.mark.parametrize("kind", [AAAA, HTTPS, TXT, SRV, MX, PTR])
def test_other_types_are_empty_at_once_and_cost_no_address(tags: NameTags, kind: int) -> None:
    reply = asked(tags, query(NAME, kind))
    assert (reply.code, reply.answers) == (NOERROR, 0)
    assert len(tags) == 0


def test_the_question_comes_back_as_it_was_written(tags: NameTags) -> None:
    mixed = query(b"aPi.eXAMPLE.cOm")
    reply = asked(tags, mixed)
    assert reply.data[12 : len(mixed)] == mixed[12:]
    assert tags.name_of(reply.address) == "api.example.com"


def test_edns_is_answered_with_edns(tags: NameTags) -> None:
    assert asked(tags, query(NAME, edns=True)).additional == 1
    assert asked(tags, query(NAME)).additional == 0


@pytest.mark.parametrize("name", [b"localhost", b"a.localhost", b"sandbox"])
def test_a_program_finds_itself(tags: NameTags, name: bytes) -> None:
    assert str(asked(tags, query(name)).address) == "127.0.0.1"
    assert len(tags) == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param(query(NAME, AXFR), REFUSED, id="AXFR"),
        pytest.param(query(NAME, IXFR), REFUSED, id="IXFR"),
        pytest.param(query(b"version.bind", TXT, klass=3), REFUSED, id="class CH"),
        pytest.param(query(NAME, klass=255), REFUSED, id="class ANY"),
        pytest.param(query(NAME, flags=0x2000), NOTIMP, id="NOTIFY"),
        pytest.param(query(NAME, flags=0x2800), NOTIMP, id="UPDATE"),
        pytest.param(query(NAME, count=2), FORMERR, id="two questions"),
        pytest.param(query(NAME, count=0), FORMERR, id="no question"),
        pytest.param(query(NAME)[:20], FORMERR, id="torn"),
        pytest.param(query(NAME)[:-1], FORMERR, id="torn in the class"),
        pytest.param(query(NAME)[:12] + b"\xc0\x0c\0\1\0\1", FORMERR, id="a pointer to itself"),
        pytest.param(query(NAME)[:12] + b"\x41" + b"a" * 65 + b"\0\0\1\0\1", FORMERR, id="a label of 65"),
        pytest.param(query(b".".join([b"a" * 63] * 4)), FORMERR, id="a name of 257"),
        pytest.param(query(NAME)[:12] + b"\x0bapi.example\x03com\0\0\1\0\1", NXDOMAIN, id="a dot in a label"),
        pytest.param(query(b"api\0.example.com"), NXDOMAIN, id="NUL"),
        pytest.param(query(b"api .example.com"), NXDOMAIN, id="a space"),
        pytest.param(query(b"api\r\nHost: x.example.com"), NXDOMAIN, id="a line of a header"),
        pytest.param(query(b"-a.example.com"), NXDOMAIN, id="a hyphen in front"),
        pytest.param(query(b"a@example.com"), NXDOMAIN, id="a user"),
        pytest.param(query(b"127.1"), NXDOMAIN, id="a number"),
        pytest.param(query(b"192.0.2.1"), NXDOMAIN, id="an address"),
        pytest.param(query("bücher.example".encode()), NXDOMAIN, id="UTF-8"),
        pytest.param(query("é.example".encode("latin-1")), NXDOMAIN, id="Latin 1"),
        pytest.param(query(b""), NXDOMAIN, id="the root"),
    ],
)
def test_everything_else_is_refused_at_once(tags: NameTags, message: bytes, code: int) -> None:
    reply = asked(tags, message)
    assert (reply.code, reply.answers) == (code, 0)
    assert len(tags) == 0


@pytest.mark.parametrize("message", [b"", b"\0" * 11, query(NAME, flags=0x8180)], ids=["empty", "short", "a reply"])
def test_what_is_no_query_gets_nothing(tags: NameTags, message: bytes) -> None:
    assert answer(message, tags.exists, tags.address_of) is None


def test_mutated_messages_are_answered_in_good_order() -> None:
    done, given = run(INPUTS, 60, random.randrange(1 << 32))
    assert done == INPUTS
    assert 0.02 < given / INPUTS < 0.9, "neither nothing nor everything"
