"""How entries lie in the store: what no version has put there is no entry, and takes little memory."""

from __future__ import annotations

import tracemalloc

import pytest

from cloned_proxy.fleet.audit.stream_form import Item, StoredEntry, entries_in, group_of
from cloned_proxy.store.audit.audit_tail import Held

ONE, TWO = (mark * 64 for mark in "ab")


def test_a_group_has_what_was_written_one_after_the_other() -> None:
    item = group_of(
        [
            Held(11, 11, ONE, f'[[11, "{{}}\\n\\ud800", "{ONE}"]]'.encode()),
            Held(12, 12, TWO, f'[[12, " {{}}", "{TWO}"]]'.encode()),
        ]
    )
    assert item == Item(12, TWO, "entries", item.value)
    found = entries_in(b"12-0", {b"hash": TWO.encode(), b"entries": item.value})
    assert found == [StoredEntry(11, ONE, "{}\n\ud800"), StoredEntry(12, TWO, " {}")]


def test_an_entry_by_itself_is_that_of_version_0_2_0() -> None:
    assert entries_in(b"12-0", {b"hash": ONE.encode(), b"body": b"{}\n"}) == [StoredEntry(12, ONE, "{}\n")]
    assert entries_in(b"12-0", {}) == [StoredEntry(12, "", "")]


@pytest.mark.parametrize(
    ("identifier", "entries"),
    [
        ("2-1", '[[2, "", ""]]'),
        ("2", '[[2, "", ""]]'),
        ("x-0", '[[2, "", ""]]'),
        ("2-0", ""),
        ("2-0", "x"),
        ("2-0", "7"),
        ("2-0", "[7]"),
        ("2-0", "[]"),
        ("2-0", "{}"),
        ("2-0", '{"2": 1}'),
        ("2-0", '[[2, "", ""]]\n'),
        ("2-0", '[[1, "", ""]]'),
        ("2-0", '[[2, "", ""], [1, "", ""]]'),
        ("2-0", '[[2, "", ""], [2, "", ""]]'),
        ("2-0", '[[2, ""]]'),
        ("2-0", '[[2, "", "", ""]]'),
        ("2-0", '[["2", "", ""]]'),
        ("2-0", '[[2.0, "", ""]]'),
        ("1-0", '[[true, "", ""]]'),
        ("2-0", '[[2, null, ""]]'),
        ("2-0", '[[2, "", {}]]'),
        ("2-0", "[" * 100_000),
        ("2-0", "[[" + "9" * 5000 + ', "", ""]]'),
    ],
)  # fmt: skip
def test_what_no_version_has_put_there(identifier: str, entries: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  of json, of int or our own: all of them are taken so
        entries_in(identifier.encode(), {b"entries": entries.encode()})


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ValueError, match="codec"):
        entries_in(b"2-0", {b"entries": b'[[2, "\xff", ""]]'})


def test_what_is_larger_than_any_group_is_not_taken_apart() -> None:
    many = b"[" + b"[]," * 2_000_000 + b"[]]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="larger"):
            entries_in(b"9-0", {b"entries": many})
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
