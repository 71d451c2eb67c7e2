"""Durations and sizes, as tables."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.terms.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    parse_duration,
    parse_size,
    parse_term,
    rounded_duration,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1500ms", 1.5),
        ("1s500ms", 1.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_term(text) == parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "-5m", "1.5h", "0s", "5 m", "9999999d", "100000d", "\u0663m", "5m\n", "900ms", "1s" * 7]
)
def test_what_is_no_term_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_term(text)


@pytest.mark.parametrize("value", [0, 0.5, -1, True, None, float("nan"), float("inf"), 315_360_001])
def test_a_number_of_seconds_has_the_same_bounds(value: object) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_term(value)


@given(st.integers(0, 10**9))
def test_what_is_written_is_read_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (5400, "1h 30m"), (90_061, "1d 1h"), (-3, "0s")]
)
def test_durations_are_shown_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert rounded_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("200MiB", 200 * 2**20), ("512m", 512 * 2**20), ("2g", 2**31), ("2GB", 2 * 10**9), ("8gb", 2**33), ("1 kB", 1000),
     ("16384k", 2**24), ("5", 5), ("5b", 5)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.one_of(st.from_regex(DURATION_PATTERN), st.from_regex("[0-9]{0,3}[a-z]{0,3}[0-9]{0,2}[smh]?")))
def test_the_pattern_of_a_json_schema_says_what_is_a_duration(text: str) -> None:
    assert _reads(parse_duration, text) == (re.search(DURATION_PATTERN.replace("$", r"\Z"), text) is not None)


@given(st.one_of(st.from_regex(SIZE_PATTERN), st.from_regex("[0-9]{0,16} ?[kKmMgGiBb]{0,3}")))
def test_the_pattern_of_a_json_schema_says_what_is_a_size(text: str) -> None:
    assert _reads(parse_size, text) == (re.search(SIZE_PATTERN.replace("$", r"\Z"), text) is not None)


def _reads(read: object, text: str) -> bool:
    assert callable(read)
    try:
        read(text)
    except ValueError:
        return False
    return True
