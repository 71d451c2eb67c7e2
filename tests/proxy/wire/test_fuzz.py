"""The parsers at the edge against independent readers; `make fuzz` runs the same for long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.proxy import fuzz

_INPUTS = 4_000


def corpus(kind: str) -> list[Path]:
    return sorted((fuzz.CORPUS / kind).iterdir())


@pytest.mark.parametrize("path", corpus("head"), ids=lambda path: path.name)
def test_kept_heads_are_read_as_others_read_them(path: Path) -> None:
    fuzz.check_head(path.read_bytes())


@pytest.mark.parametrize("path", corpus("hello"), ids=lambda path: path.name)
def test_kept_hellos_are_read_as_openssl_reads_them(path: Path) -> None:
    fuzz.check_hello(path.read_bytes(), random.Random(1))


def test_fresh_heads_are_read_as_others_read_them() -> None:
    rng = random.Random()
    accepted = sum(fuzz.check_head(fuzz.heads(rng)) for _ in range(_INPUTS))
    # Neither "everything is refused" nor "everything passes" would test anything.
    assert 0.02 < accepted / _INPUTS < 0.5


def test_fresh_hellos_are_read_as_openssl_reads_them() -> None:
    rng = random.Random()
    accepted = sum(fuzz.check_hello(fuzz.hellos(rng), rng) for _ in range(_INPUTS))
    assert 0.1 < accepted / _INPUTS < 0.9


@given(st.binary(max_size=400))
@example(b"")
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_in_good_order(data: bytes) -> None:
    fuzz.check_head(data)
    fuzz.check_head(data + b"\r\n\r\n")
    fuzz.check_hello(data, random.Random(0))
    fuzz.check_hello(b"\x16\x03\x01" + len(data).to_bytes(2) + data, random.Random(0))


@pytest.mark.parametrize("theirs", ["_by_h11", "_by_http_server", "_by_openssl"])
def test_an_oracle_that_reads_otherwise_is_heard(theirs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, theirs, lambda _: ("something", "else"))
    monkeypatch.setattr(fuzz, "keep", lambda *_: None)
    assert fuzz.run("hello" if theirs == "_by_openssl" else "head", 2_000, 60, 3)[2] > 0
