"""JSON that two readers could read differently is refused, at every depth."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.terms.strict_json import read_json


@pytest.mark.parametrize(("text", "value"), [("{}", {}), ('{"a": [1, null]}', {"a": [1, None]}), (b'"\xc3\xbc"', "ü")])
def test_a_text_with_one_meaning_is_read(text: bytes | str, value: object) -> None:
    assert read_json(text) == value


REFUSED = {
    "a key twice": ('{"a": 1, "a": 1}', "a key stands twice"),
    "a key twice inside": ('[{"a": {"b": 1, "b": 2}}]', "a key stands twice"),
    "a key twice in another spelling": (r'{"a": 1, "\u0061": 2}', "a key stands twice"),
    "no number": ("[NaN]", "NaN is no JSON number"),
    "an endless number": ('{"a": -Infinity}', "-Infinity is no JSON number"),
    "too deep": ("[" * 500_000, "nested too deeply"),
    "no UTF-8": (b'"\xff"', "codec can't decode"),
    "nothing": ("", "Expecting value"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_any_other_text_is_refused(text: bytes | str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_json(text)
