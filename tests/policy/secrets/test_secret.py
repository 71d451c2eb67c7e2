from __future__ import annotations

import pytest

from cloned_proxy.policy.secrets.secret import check_secret_value, filled, references, valid_secret_name


@pytest.mark.parametrize("name", ["llm.api_key", "a", "brave", "x9.y-z.k_1", "a.b.c.d"])
def test_names(name: str) -> None:
    assert valid_secret_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "A", "llm.", ".llm", "a..b", "a b", "a/b", "-a", "a.b.c.d.e", "a" * 33, "ä", "a\n"]
)
def test_what_is_no_name(name: str) -> None:
    assert not valid_secret_name(name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "empty"),
        ("hunter2\r\nX-Evil: 1", "one line"),
        ("hunter2\nX", "one line"),
        ("hunter2\x00", "one line"),
        ("hunter2\x7f", "one line"),
        ("hunter2ü", "ASCII"),
        (" hunter2", "blank"),
        ("hunter2" * 2000, "8192"),
    ],
)
def test_a_value_that_no_header_carries_is_refused_without_being_told(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_secret_value(value)
    assert "hunter2" not in str(caught.value)


def test_references_are_found_once_and_filled() -> None:
    text = "Basic ${vault:a.b}:${vault:c}${vault:a.b}"
    assert references(text) == ("a.b", "c")
    assert filled(text, {"a.b": "${vault:c}", "c": "$1\\1"}.__getitem__) == "Basic ${vault:c}:$1\\1${vault:c}"
