"""The reader of large documents beside `json.loads`: what it takes means the same to both, whatever the bytes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.terms.registry import Registry, RegistryKind
from cloned_proxy.proxy.inspection.registry.filtered import MetadataError
from cloned_proxy.proxy.inspection.registry.json_members import members, values, whole_characters
from cloned_proxy.proxy.inspection.registry.npm import filter_packument
from tests.proxy.inspection.registry.shelf import DAY, at

NOW = 1_800_000_000.0
CHARACTERS = st.characters(exclude_categories=["Cs"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TREES = st.recursive(
    SCALARS | st.text(CHARACTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(CHARACTERS, max_size=4), TREES, max_size=4)
INDENTS = st.sampled_from([None, 0, 1, "\t", "\r\n "])


def spelled(document: Any, indent: Any, *, ascii_only: bool) -> bytes:
    return json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()


def strictly(text: bytes) -> Any:
    """As RFC 8259 has it and a name at the top once: Python's reader also takes NaN and other encodings."""

    def constant(name: str) -> Any:
        raise ValueError(name)

    pairs: list[Any] = []

    def noted(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append(found)
        return dict(found)

    document = json.loads(text.decode(), parse_constant=constant, object_pairs_hook=noted)
    if not isinstance(document, dict) or len(pairs[-1]) != len(document):
        raise ValueError("no object, or a name is there twice")
    return document


@given(OBJECTS, INDENTS, st.booleans())
def test_members_are_those_that_json_reads(document: dict[str, Any], indent: Any, ascii_only: bool) -> None:
    text = spelled(document, indent, ascii_only=ascii_only)
    found = members(text)
    assert list(found) == list(document)
    assert {name: json.loads(bytes(value)) for name, value in found.items()} == document
    assert all(bytes(value) in text for value in found.values())
    assert values(text) == document


@given(OBJECTS, INDENTS, st.data())
def test_a_damaged_document_is_refused_or_means_the_same_to_both(document: Any, indent: Any, data: Any) -> None:
    text = spelled(document, indent, ascii_only=data.draw(st.booleans()))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 2)))
    bytes_ = st.sampled_from(
        [b'"', b"\\", b"{", b"}", b",", b":", b"0", b"\x00", b"\n", b"\xff", b"\xef\xbb\xbf", b"/"]
    )
    text = text[:start] + b"".join(data.draw(st.lists(bytes_, max_size=3))) + text[end:]
    try:
        found = members(text)
    except ValueError:
        found = None
    try:
        expected = strictly(text)
    except UnicodeDecodeError:
        return  # inside of a value they are copied; see below for what is read of it
    except ValueError:
        expected = None
    if found is None and re.search(rb"\\u[dD][89a-fA-F]", text):
        return  # half a character is refused, see below
    read = None if found is None else {name: json.loads(bytes(value)) for name, value in found.items()}
    assert read == expected


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"1.0":1,"1\\u002e0":2}', b'{"/":1,"\\/":2}', b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"), b"{}{}", b"{} x", b"{}\x00", b"[]", b"null", b"", b'{"a":NaN}', b'{"a":-Infinity}',
        b'{"a":01}', b'{"a":1.}', b'{"a":0x1}', b"{'a':1}", b"{a:1}", b'{"a":1,}', b'{"a":[1,]}', b'{"a":1}//',
        b'{"a":"\t"}', b'{"a":"\\x41"}', b'{"\xff":1}', b'{"a":' + b"[" * 200_000, b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_what_readers_could_take_in_two_ways_is_no_object(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        members(text)


def test_numbers_stay_as_they_are_written() -> None:
    numbers = b"[" + b"9" * 5000 + b", 1e999, 0.1000000000000000055, -0]"
    assert bytes(members(b'{"a":' + numbers + b"}")["a"]) == numbers


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (rb'{"a":"cut \ud83d"}', rb'{"a":"cut \ufffd"}'),
        (rb'{"a":"\uDE00 alone"}', rb'{"a":"\ufffd alone"}'),
        (rb'{"a":"\ud83d\ude00"}', rb'{"a":"\ud83d\ude00"}'),
        (rb'{"a":"\\ud83d"}', rb'{"a":"\\ud83d"}'),
        (rb'{"a":"\\\ud83d\\"}', rb'{"a":"\\\ufffd\\"}'),
        (rb'{"a":"\ud83d\ud83d\ude00"}', rb'{"a":"\ufffd\ud83d\ude00"}'),
    ],
)
def test_half_a_character_becomes_the_sign_for_none(text: bytes, whole: bytes) -> None:
    assert whole_characters(text) == whole
    assert list(members(whole)) == ["a"]


AGES = st.dictionaries(
    st.sampled_from([f"{major}.{minor}.0" for major in range(3) for minor in range(3)]),
    st.sampled_from([None, 0.0, 3.0, 6.9, 7.0, 400.0]),
    min_size=1,
)


@given(AGES, OBJECTS, INDENTS, st.booleans(), st.data())
def test_what_is_shown_is_old_and_is_what_the_registry_wrote(
    ages: dict[str, float | None], more: dict[str, Any], indent: Any, ascii_only: bool, data: Any
) -> None:
    url = "https://registry.example.com/pad/-/pad-{}.tgz"
    versions = {version: {**more, "dist": {"tarball": url.format(version)}} for version in ages}
    times = {version: at(NOW - days * DAY) for version, days in ages.items() if days is not None}
    document = {**more, "name": "pad", "versions": versions, "time": times, "dist-tags": {"latest": next(iter(ages))}}
    text = spelled(document, indent, ascii_only=ascii_only)
    if data.draw(st.booleans()):
        text = text.replace(b'"1.', b'"\\u0031\\u002e')
    found = filter_packument(
        text, "pad", registry=Registry(RegistryKind.NPM, 7 * DAY), now=NOW, covered=lambda _url: True
    )
    shown = strictly(found.body)
    assert shown["versions"] == {version: each for version, each in versions.items() if (ages[version] or 0.0) >= 7.0}
    assert shown["time"].keys() == shown["versions"].keys()
    assert set(shown["dist-tags"].values()) <= shown["versions"].keys()
    own = {"versions", "time", "dist-tags", "_attachments"}
    assert {name: value for name, value in shown.items() if name not in own} == {
        name: value for name, value in document.items() if name not in own
    }


@pytest.mark.parametrize(
    "place",
    [
        '"versions": {"1.0.0": {"dist": {"tarball": "URL"}}, "1.0\\u002e0": {}}, "time": {}',
        '"versions": {}, "versions": {}, "time": {}',
        '"versions": {}, "vers\\u0069ons": {}, "time": {}',
        '"time": {"1.0.0": "2000-01-01T00:00:00Z", "1.0.0": "2026-01-01T00:00:00Z"}, "versions": {}',
        '"time": {}, "versions": {}, "dist-tags": {"latest": "1.0.0", "latest": "2.0.0"}',
    ],
)
def test_a_name_that_is_there_twice_where_ages_are_judged_hides_the_package(place: str) -> None:
    with pytest.raises(MetadataError, match="not the JSON of a packument"):
        filter_packument(
            f'{{"name": "pad", {place}}}'.encode(),
            "pad",
            registry=Registry(RegistryKind.NPM, 7 * DAY),
            now=NOW,
            covered=lambda _url: True,
        )


def test_of_two_tarballs_in_one_version_the_one_is_judged_that_javascript_reads() -> None:
    old, young = ("https://registry.example.com/pad/-/pad-1.0.0.tgz", "https://registry.example.com/other/-/x-1.tgz")
    version = f'{{"dist": {{"tarball": "{old}"}}, "d\\u0069st": {{"tarball": "{old}", "tarb\\u0061ll": "{young}"}}}}'
    text = f'{{"versions": {{"1.0.0": {version}}}, "time": {{"1.0.0": "2000-01-01T00:00:00Z"}}}}'
    assert json.loads(text)["versions"]["1.0.0"]["dist"]["tarball"] == young
    found = filter_packument(
        text.encode(), "pad", registry=Registry(RegistryKind.NPM, 7 * DAY), now=NOW, covered=lambda _url: True
    )
    assert found.kept == 0
