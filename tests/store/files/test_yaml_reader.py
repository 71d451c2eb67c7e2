from __future__ import annotations

from datetime import UTC, datetime

import pytest
import yaml

from cloned_proxy.store.files import yaml_reader
from cloned_proxy.store.files.policy_bytes import MAX_BYTES
from cloned_proxy.store.files.yaml_reader import DocumentError, read_document

REFUSED = [
    pytest.param(b"a: 1\nb: 2\na: 3\n", 3, "there twice", id="duplicate key"),
    pytest.param(b"t:\n  x: 1\n  x: 1\n", 3, "there twice", id="nested duplicate key"),
    pytest.param(b"a: &x 1\n", 1, "anchors (&x)", id="anchor"),
    pytest.param(b"a: *x\n", 1, "aliases (*x)", id="alias"),
    pytest.param(b"&x [*x]\n", 1, "anchors (&x)", id="cycle"),
    pytest.param(b"<<: {a: 1}\n", 1, "merge keys", id="merge key"),
    pytest.param(b"a: !!python/object/apply:os.system [id]\n", 1, "tags", id="python tag"),
    pytest.param(b"a: !!str 1\n", 1, "tags", id="standard tag"),
    pytest.param(b"on: 1\n", 1, "quote it: 'on'", id="boolean key"),
    pytest.param(b"a: 1\n12: 1\n", 2, "quote it: '12'", id="integer key"),
    pytest.param(b"? [a]\n: 1\n", 1, "keys are text", id="list as a key"),
    pytest.param(b"a: 1\n---\nb: 1\n", 2, "second document", id="two documents"),
    pytest.param(b"[" * 65 + b"]" * 65, 1, "levels deep", id="too deep"),
    pytest.param(b"a: \xff\n", 1, "not UTF-8 (byte 0xff)", id="not UTF-8"),
    pytest.param(b"\x7fELF\x02\x01\x01\x00\x00", 1, "binary data", id="binary"),
    pytest.param(b"a: \x01\n", 1, "not valid YAML", id="control character"),
    pytest.param(b"a: 2026-13-45\n", 1, "not a valid timestamp", id="impossible date"),
    pytest.param(b"x" * (MAX_BYTES + 1), 1, "more than", id="too large"),
    pytest.param(b"[" + b"1," * yaml_reader.MAX_NODES + b"]", 1, "more than 500000 values", id="too many values"),
]


@pytest.mark.parametrize(("raw", "line", "message"), REFUSED)
def test_refused_in_one_line_with_its_place(raw: bytes, line: int, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_document(raw, "policy.yaml")
    assert str(caught.value).startswith(f"policy.yaml:{line}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_what_yaml_1_1_says() -> None:
    document = read_document(b"a: on\nb: 'on'\nc: 2026-12-01T00:00:00Z\nd: -31\ne: ~\nf: 1.5\ng: =\n", "x")
    at = datetime(2026, 12, 1, tzinfo=UTC)
    assert document.data == {"a": True, "b": "on", "c": at, "d": -31, "e": None, "f": 1.5, "g": "="}


def test_every_value_has_a_line() -> None:
    document = read_document(b"a:\n  - x\n  - {h: y,\n     p: 1}\nb: 2\n", "x")
    assert document.lines == {
        (): 1, ("a",): 1, ("a", 0): 2, ("a", 1): 3, ("a", 1, "h"): 3, ("a", 1, "p"): 4, ("b",): 5,
    }  # fmt: skip


@pytest.mark.parametrize("raw", [b"", b"# only a comment\n", b"---\n"])
def test_an_empty_file_is_none(raw: bytes) -> None:
    assert read_document(raw, "x").data is None


def test_a_byte_order_mark_is_no_content() -> None:
    assert read_document(b"\xef\xbb\xbfa: 1\n", "x").data == {"a": 1}


@pytest.mark.parametrize("parser", ["SafeLoader", "CSafeLoader"])
def test_both_parsers_refuse_the_same(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reader, "_PARSER", getattr(yaml, parser))
    assert read_document(b"a: [1, on, x]\n", "x").data == {"a": [1, True, "x"]}
    for raw in (b"a: &x 1", b"a: *x", b"a: 1\na: 2", b"a: !t 1", b"a: [", b"a: \x01"):
        with pytest.raises(DocumentError):
            read_document(raw, "x")
